#!/bin/bash
# Measures Knarr and Kubernetes' own binaries one after the other, on the same machine, disk and load.
#
# usage: KBENCH=FILE KUBE_BIN=DIR test/bench/compare.sh COMMAND [FLAGS]     (kbench's write, read, watch or memory)
#        KBENCH=FILE KUBE_BIN=DIR test/bench/compare.sh start
#        KBENCH=FILE KUBE_BIN=DIR OUT=FILE test/bench/compare.sh all        (every case of the table, about 40 minutes)
#
# KBENCH is the load tool; KUBE_BIN holds etcd and kube-apiserver. Both servers sync every acknowledged write, speak TLS with
# client certificates, authorize with RBAC, and write nothing but their data. State is in WORK, a new directory unless given;
# ports are PORT and the three behind it. Results are also appended to OUT, one line of JSON each: go run ./test/bench/table OUT.
set -eu
KNARR=${KNARR:-bin/knarr}
WORK=${WORK:-$(mktemp -d)}
PORT=${PORT:-17443} # and the three behind it
K=$((PORT + 1)) E=$((PORT + 2)) P=$((PORT + 3))
KNARR=$(realpath "$KNARR") KBENCH=$(realpath "$KBENCH") KUBE_BIN=$(realpath "$KUBE_BIN")
mkdir -p "$WORK"
OUT=$(realpath "${OUT:-$WORK/results.jsonl}")
cd "$WORK"

knarr="exec $KNARR apiserver --data-dir $WORK/knarr --listen 127.0.0.1:$PORT"
etcd="$KUBE_BIN/etcd --data-dir $WORK/etcd --listen-client-urls http://127.0.0.1:$E --advertise-client-urls http://127.0.0.1:$E --listen-peer-urls http://127.0.0.1:$P --quota-backend-bytes=8589934592"
kube="$KUBE_BIN/kube-apiserver --etcd-servers=http://127.0.0.1:$E --bind-address=127.0.0.1 --secure-port=$K --cert-dir=$WORK/serving
  --client-ca-file=ca.crt --service-account-key-file=sa.key --service-account-signing-key-file=sa.key
  --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC
  --tls-cert-file=api.crt --tls-private-key-file=api.key"

certificates() {
  [ -f admin.crt ] && return
  q() { openssl "$@" 2>/dev/null; }
  q genrsa -out sa.key 2048
  q req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 365 -subj /CN=compare -addext keyUsage=critical,keyCertSign,digitalSignature
  printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >api.ext
  printf 'extendedKeyUsage=clientAuth\n' >admin.ext
  for n in api:/CN=kube-apiserver admin:/O=system:masters/CN=admin; do
    f=${n%%:*}
    q req -newkey rsa:2048 -nodes -keyout $f.key -out $f.csr -subj "${n#*:}"
    q x509 -req -in $f.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile $f.ext -out $f.crt
  done
  cat >kube.config <<EOF
apiVersion: v1
kind: Config
clusters: [{name: k, cluster: {server: "https://127.0.0.1:$K", certificate-authority: $WORK/ca.crt}}]
users: [{name: k, user: {client-certificate: $WORK/admin.crt, client-key: $WORK/admin.key}}]
contexts: [{name: k, context: {cluster: k, user: k}}]
current-context: k
EOF
}

ready() { # URL PID...
  for _ in $(seq 600); do
    curl -sk --cert admin.crt --key admin.key "$1" 2>/dev/null | grep -q '^ok' && return
    kill -0 "$2" || exit 1
    sleep 0.1
  done
}

start() {
  "$KBENCH" start --label knarr --runs 5 --idle 30s --idle-runs 1 --cmd "$knarr" --reset "rm -rf $WORK/knarr" --ready https://127.0.0.1:$PORT/readyz --out "$OUT"
  "$KBENCH" start --label kubernetes --runs 5 --idle 30s --idle-runs 1 --cmd "$etcd & exec $(echo $kube)" --reset "rm -rf $WORK/etcd" --ready https://127.0.0.1:$K/readyz --out "$OUT"
}

load() { # runs one command of kbench against each server, both with empty data
  local knarr_dirs= kube_dirs=
  [ "$1" != memory ] || knarr_dirs="--data-dir $WORK/knarr" kube_dirs="--data-dir $WORK/etcd"
  rm -rf knarr etcd
  bash -c "$knarr" >knarr.log 2>&1 & pid=$!
  trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT # kube-apiserver outlives its etcd otherwise
  ready https://127.0.0.1:$PORT/readyz $pid
  "$KBENCH" "$@" $knarr_dirs --label knarr --kubeconfig knarr/admin.kubeconfig --pids $pid --out "$OUT"
  kill $pid; wait $pid || true

  [ -z "${ONLY_KNARR:-}" ] || return 0
  $etcd >etcd.log 2>&1 & e=$!
  $kube >kube.log 2>&1 & k=$!
  ready https://127.0.0.1:$K/readyz $k
  "$KBENCH" "$@" $kube_dirs --label kubernetes --kubeconfig kube.config --pids $e,$k --out "$OUT"
  kill $k; wait $k || true
  kill $e; wait $e || true
}

certificates
case $1 in
start) start ;;
all)
  "$KBENCH" floor --dir "$WORK" --concurrency 1,64 --rounds 2 --duration 2s --label floor --out "$OUT"
  start
  load write --concurrency 64 --kinds configmap,pod,lease --duration 2s
  load write --concurrency 1 --kinds configmap --encoding protobuf --duration 2s
  load read --pods 10000 --cases get,list,label,table --concurrency 64 --list-concurrency 1,4 --rounds 2 --duration 3s
  load watch --watchers 100,1000 --rates 100,50 --sync "" --rounds 2 --duration 2s --encoding json
  load memory --pods 10000,50000
  load read --pods 50000 --cases list --list-concurrency 1 --encoding json --rounds 2 --duration 3s
  load watch --watchers 1 --rates 100 --saturate=false --sync 50000 --rounds 1 --duration 1s --encoding protobuf
  ;;
*) load "$@" ;;
esac
