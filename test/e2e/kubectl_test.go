// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const kubectlObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - {name: web, image: knarr.dev/web:1, readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {kind: box}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: box, image: knarr.dev/busybox:1, command: [/bin/sh, -c, "echo one; echo two; exec sleep 3600"]}]
`

const changedSettings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: ahoy}
`

// kubectlCommand is one use of kubectl. Words are separated by spaces.
type kubectlCommand struct {
	args, input string
	// exit is the status that it ends with.
	exit int
	// has are parts of its output.
	has []string
	// differs says that the output is not the same each time and for each version.
	differs bool
}

// kubectlCommands are a session in a namespace of its own, in order.
var kubectlCommands = []kubectlCommand{
	{args: "apply -f -", input: kubectlObjects, has: []string{"deployment.apps/web created"}},
	{args: "apply -f -", input: kubectlObjects, has: []string{"deployment.apps/web unchanged", "configmap/settings unchanged"}},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},
	{args: "wait --for=condition=Ready pod/box --timeout=60s", has: []string{"pod/box condition met"}},
	{args: "wait --for=jsonpath={.status.phase}=Running pod/box --timeout=60s", has: []string{"pod/box condition met"}},

	{args: "get deployment web -o wide", has: []string{"knarr.dev/web:1", "app=web", "1/1"}, differs: true},
	{args: "get pods -o wide --show-labels", has: []string{"NOMINATED NODE", "kind=box"}, differs: true},
	{args: "get configmap settings -o jsonpath={.data.greeting}", has: []string{"hello"}},
	{args: "get configmap settings -o custom-columns=NAME:.metadata.name,GREETING:.data.greeting", has: []string{"NAME       GREETING\nsettings   hello"}},
	{args: "get configmap settings -o yaml", has: []string{"kind: ConfigMap", "  greeting: hello"}, differs: true},
	{args: "get configmap settings -o go-template={{.data.greeting}}", has: []string{"hello"}},
	{args: "get deployment,service -o name --sort-by=.metadata.name", has: []string{"deployment.apps/web", "service/web"}},
	{args: "get pods --field-selector=metadata.name=box -o name --chunk-size=1", has: []string{"pod/box"}},
	{args: "get deployment web --subresource=scale -o jsonpath={.spec.replicas}", has: []string{"1"}},
	{args: "get pods none", exit: 1, has: []string{`Error from server (NotFound): pods "none" not found`}},
	{args: "get nothing", exit: 1, has: []string{`error: the server doesn't have a resource type "nothing"`}},
	{args: "get --raw /version", has: []string{`"gitVersion": "v1.36.`}},
	{args: "explain deployment.spec.strategy.rollingUpdate", has: []string{"maxSurge", "<IntOrString>", "GROUP:      apps"}},
	{args: "explain pods --recursive", has: []string{"terminationMessagePath"}},
	{args: "api-resources --api-group=apps --no-headers", has: []string{"deployments", "deploy", "apps/v1", "ControllerRevision"}},
	{args: "api-versions", has: []string{"apps/v1", "resource.k8s.io/v1"}},
	{args: "cluster-info", has: []string{"Kubernetes control plane"}},
	{args: "describe pod box", has: []string{"Ready:          True", "Successfully assigned"}, differs: true},
	{args: "describe deployment web", has: []string{"NewReplicaSet:", "ScalingReplicaSet", "1 desired"}, differs: true},
	{args: "describe node node", has: []string{"Allocated resources", "KubeletReady"}, differs: true},
	{args: "events --for pod/box", has: []string{"Scheduled", "Started"}, differs: true},

	{args: "diff -f -", input: changedSettings, exit: 1, has: []string{"-  greeting: hello", "+  greeting: ahoy"}, differs: true},
	{args: "apply --server-side --field-manager=other -f -", input: changedSettings, exit: 1, has: []string{"conflict", ".data.greeting"}},
	{args: "apply --server-side --field-manager=other --force-conflicts -f -", input: changedSettings, has: []string{"configmap/settings serverside-applied"}},
	{args: "patch configmap settings --type=merge -p {\"data\":{\"a\":\"1\"}}", has: []string{"configmap/settings patched"}},
	{args: "patch configmap settings --type=json -p [{\"op\":\"remove\",\"path\":\"/data/a\"}]", has: []string{"configmap/settings patched"}},
	{args: "patch configmap settings --type=json -p [{\"op\":\"remove\",\"path\":\"/data/a\"}]", exit: 1, has: []string{"The request is invalid"}},
	{args: "patch deployment web -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"web\",\"env\":[{\"name\":\"A\",\"value\":\"1\"}]}]}}}}", has: []string{"deployment.apps/web patched"}},
	{args: "patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":2}}", has: []string{"web"}},
	{args: "scale deployment/web --current-replicas=1 --replicas=3", exit: 1, has: []string{"Expected replicas to be 1, was 2"}},
	{args: "scale deployment/web --replicas=1", has: []string{"deployment.apps/web scaled"}},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},
	{args: "set image deployment/web web=knarr.dev/web:2", has: []string{"deployment.apps/web image updated"}},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},
	{args: "rollout history deployment/web", has: []string{"REVISION  CHANGE-CAUSE", "3         <none>"}},
	{args: "rollout undo deployment/web --to-revision=1", has: []string{"deployment.apps/web rolled back"}, differs: true},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},
	{args: "rollout restart deployment/web", has: []string{"deployment.apps/web restarted"}},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},
	{args: "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", has: []string{"knarr.dev/web:1"}},
	{args: "rollout pause deployment/web", has: []string{"deployment.apps/web paused"}},
	{args: "rollout resume deployment/web", has: []string{"deployment.apps/web resumed"}},
	{args: "set env deployment/web B=2 --dry-run=server", has: []string{"deployment.apps/web env updated (server dry run)"}},
	{args: "autoscale deployment web --min=1 --max=2", has: []string{"horizontalpodautoscaler.autoscaling/web autoscaled"}},
	{args: "expose deployment web --name=more --port=80 --target-port=8080", has: []string{"service/more exposed"}},

	{args: "exec box -- echo to you", has: []string{"to you"}},
	{args: "exec -i box -- cat", input: "through and back\n", has: []string{"through and back"}},
	{args: "exec box -- false", exit: 1, has: []string{"command terminated with exit code 1"}},
	{args: "logs box", has: []string{"one\ntwo\n"}},
	{args: "logs box --tail=1", has: []string{"two\n"}},
	{args: "logs -l kind=box --prefix", has: []string{"[pod/box/box] one"}},
	{args: "debug box --image=knarr.dev/busybox:1 --container=look -- /bin/sleep 3600", differs: true},
	{args: "wait --for=jsonpath={.status.ephemeralContainerStatuses[0].state.running} pod/box --timeout=60s", has: []string{"pod/box condition met"}},
	{args: "exec box -c look -- echo seen", has: []string{"seen"}},

	{args: "label pod box tier=front", has: []string{"pod/box labeled"}},
	{args: "label pod box tier=back", exit: 1, has: []string{"'tier' already has a value (front)"}},
	{args: "label pod box tier=back --overwrite", has: []string{"pod/box labeled"}},
	{args: "get pods -l tier=back,kind!=none -o name", has: []string{"pod/box"}},
	{args: "label pod box tier-", has: []string{"pod/box unlabeled"}},
	{args: "annotate pod box note=this", has: []string{"pod/box annotated"}},
	{args: "auth can-i --list", has: []string{"*.*"}, differs: true},
	{args: "auth can-i create pods", has: []string{"yes"}},
	{args: "auth can-i create pods --as=nobody", exit: 1, has: []string{"no"}},
	{args: "auth whoami -o jsonpath={.status.userInfo.groups}", has: []string{"system:authenticated"}},
	{args: "get pods --as=nobody", exit: 1, has: []string{`pods is forbidden: User "nobody" cannot list resource "pods" in API group ""`}},
	{args: "create serviceaccount robot", has: []string{"serviceaccount/robot created"}},
	{args: "create role reader --verb=get,list --resource=pods", has: []string{"role.rbac.authorization.k8s.io/reader created"}},
	{args: "create rolebinding reader --role=reader --serviceaccount=NAMESPACE:robot", has: []string{"rolebinding.rbac.authorization.k8s.io/reader created"}},
	{args: "auth can-i list pods --as=system:serviceaccount:NAMESPACE:robot", has: []string{"yes"}},
	{args: "create token robot --duration=1h", has: []string{"eyJ"}, differs: true},
	{args: "create configmap more --from-literal=a=1", has: []string{"configmap/more created"}},
	{args: "create secret generic secret --from-literal=a=1 -o jsonpath={.data.a}", has: []string{"MQ=="}},
	{args: "create quota quota --hard=pods=20", has: []string{"resourcequota/quota created"}},
	{args: "create job once --image=knarr.dev/busybox:1 --dry-run=server", has: []string{"job.batch/once created (server dry run)"}},
	{args: "create configmap more --from-literal=a=1", exit: 1, has: []string{`configmaps "more" already exists`}},
	{args: "replace -f -", input: changedSettings, has: []string{"configmap/settings replaced"}},
	{args: "edit configmap settings", has: []string{"configmap/settings edited"}},
	{args: "get configmap settings -o jsonpath={.data.greeting}", has: []string{"salut"}},

	{args: "cordon node", has: []string{"node/node cordoned"}},
	{args: "get node node", has: []string{"Ready,SchedulingDisabled"}, differs: true},
	{args: "drain node --ignore-daemonsets --force --delete-emptydir-data --pod-selector=app=web --timeout=60s", has: []string{"evicting pod NAMESPACE/web-", "node/node drained"}, differs: true},
	{args: "uncordon node", has: []string{"node/node uncordoned"}},
	{args: "taint nodes node dedicated=test:PreferNoSchedule", has: []string{"node/node tainted"}},
	{args: "taint nodes node dedicated-", has: []string{"node/node untainted"}},
	{args: "rollout status deployment/web --timeout=90s", has: []string{"successfully rolled out"}, differs: true},

	{args: "delete configmap more --dry-run=server", has: []string{`configmap "more" deleted`}, differs: true},
	{args: "delete configmap more", has: []string{`configmap "more" deleted`}, differs: true},
	{args: "delete deployment web --cascade=orphan", has: []string{`deployment.apps "web" deleted`}, differs: true},
	{args: "get replicasets,pods -l app=web -o name", has: []string{"replicaset.apps/web-", "pod/web-"}, differs: true},
	{args: "delete replicasets -l app=web --cascade=foreground --timeout=60s", has: []string{"deleted"}, differs: true},
	{args: "get replicasets,pods -l app=web -o name"},
	{args: "delete pod box --now --timeout=60s", has: []string{`pod "box" deleted`}, differs: true},
	{args: "get all", has: []string{"service/web"}, differs: true},
}

// kubectlVersions runs the session with an old version and the present one, which must get the same answers.
func (c cluster) kubectlVersions(t *testing.T, old string) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	before, now := c.kubectlSession(t, old, "kubectl-old"), c.kubectlSession(t, filepath.Join(bin, "kubectl"), "kubectl-new")
	for i := range before {
		if now[i] != before[i] {
			t.Errorf("versions differ:\n%s\n%s", before[i], now[i])
		}
	}
}

// kubectlSession runs the session with one version and returns what it printed, apart from what differs.
func (c cluster) kubectlSession(t *testing.T, program, namespace string) []string {
	run := func(input string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
		cmd.Env = append(os.Environ(), "KUBE_EDITOR=sed -i s/ahoy/salut/")
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("", "create", "namespace", namespace); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var printed []string
	for i, k := range kubectlCommands {
		args := strings.Split(strings.ReplaceAll(k.args, "NAMESPACE", namespace), " ")
		out, err := run(k.input, append([]string{"--namespace", namespace}, args...)...)
		exit := 0
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			exit = ended.ExitCode()
		}
		if exit != k.exit {
			t.Fatalf("kubectl %s: exit %d (%v), want %d:\n%s", k.args, exit, err, k.exit, out)
		}
		out = strings.ReplaceAll(out, namespace, "NAMESPACE")
		for _, has := range k.has {
			if !strings.Contains(out, has) {
				t.Errorf("kubectl %s: no %q in\n%s", k.args, has, out)
			}
		}
		if !k.differs {
			printed = append(printed, fmt.Sprintf("%d. kubectl %s\n%s", i, k.args, out))
		}
		if k.args == "logs box" { // while there are pods
			c.kubectlCopy(t, run, namespace)
			c.kubectlForward(t, program, namespace)
		}
	}
	if out, err := run("", "delete", "namespace", namespace, "--timeout=90s"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return printed
}

func (c cluster) kubectlCopy(t *testing.T, run func(string, ...string) (string, error), namespace string) {
	t.Helper()
	dir := t.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	data := bytes.Repeat([]byte("knarr "), 100_000)
	if err := os.WriteFile(there, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{there, namespace + "/box:/tmp/copy"}, {namespace + "/box:/tmp/copy", back}} {
		if out, err := run("", append([]string{"cp"}, args...)...); err != nil {
			t.Errorf("kubectl cp %v: %v\n%s", args, err, out)
		}
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("copied there and back: %d bytes, %v", len(got), err)
	}
}

func (c cluster) kubectlForward(t *testing.T, program, namespace string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--kubeconfig", c.kubeconfig(), "-n", namespace, "port-forward", "service/web", ":80")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	line, err := bufio.NewReader(out).ReadString('\n')
	address, _, found := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	if err != nil || !found {
		t.Fatalf("port-forward: %q, %v", line, err)
	}
	r, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatalf("through the forwarded port: %v", err)
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("through the forwarded port: %s, %v", r.Status, err)
	}
}
