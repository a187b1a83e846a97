#!/bin/bash
# Measures Knarr and Kubernetes' own binaries one after the other, on the same machine, disk and load.
#
# usage: KBENCH=FILE KUBE_BIN=DIR test/bench/compare.sh COMMAND [FLAGS]     (kbench's write, read or watch)
#        KBENCH=FILE KUBE_BIN=DIR test/bench/compare.sh start
#
# KBENCH is the load tool; KUBE_BIN holds etcd and kube-apiserver. Both servers sync every acknowledged write, speak TLS with
# client certificates, authorize with RBAC, and write nothing but their data. State is in WORK, a new directory unless given;
# ports are PORT and the three behind it.
set -eu
KNARR=${KNARR:-bin/knarr}
WORK=${WORK:-$(mktemp -d)}
PORT=${PORT:-17443} # and the three behind it
K=$((PORT + 1)) E=$((PORT + 2)) P=$((PORT + 3))
KNARR=$(realpath "$KNARR") KBENCH=$(realpath "$KBENCH") KUBE_BIN=$(realpath "$KUBE_BIN")
mkdir -p "$WORK"; cd "$WORK"

knarr="exec $KNARR apiserver --data-dir $WORK/knarr --listen 127.0.0.1:$PORT"
etcd="$KUBE_BIN/etcd --data-dir $WORK/etcd --listen-client-urls http://127.0.0.1:$E --advertise-client-urls http://127.0.0.1:$E --listen-peer-urls http://127.0.0.1:$P"
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

certificates
if [ "$1" = start ]; then
  "$KBENCH" start --label knarr --runs 5 --idle 10s --cmd "$knarr" --reset "rm -rf $WORK/knarr" --ready https://127.0.0.1:$PORT/readyz
  "$KBENCH" start --label kubernetes --runs 5 --idle 10s --cmd "$etcd & exec $(echo $kube)" --reset "rm -rf $WORK/etcd" --ready https://127.0.0.1:$K/readyz
  exit
fi

rm -rf knarr etcd
bash -c "$knarr" >knarr.log 2>&1 & pid=$!
trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT # kube-apiserver outlives its etcd otherwise
ready https://127.0.0.1:$PORT/readyz $pid
"$KBENCH" "$@" --label knarr --kubeconfig knarr/admin.kubeconfig --pids $pid
kill $pid; wait $pid || true

$etcd >etcd.log 2>&1 & e=$!
$kube >kube.log 2>&1 & k=$!
ready https://127.0.0.1:$K/readyz $k
"$KBENCH" "$@" --label kubernetes --kubeconfig kube.config --pids $e,$k
