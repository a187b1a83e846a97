// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const webApp = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: shop}
data: {password: b3Blbi1zZXNhbWU=} # open-sesame
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: web
          image: knarr.dev/web:1
          env:
            - {name: VERSION, value: "1"}
            - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
            - {name: GREETING, valueFrom: {configMapKeyRef: {name: settings, key: greeting}}}
          ports: [{containerPort: 8080, name: http}]
          readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1}
          livenessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 5}
          volumeMounts:
            - {name: settings, mountPath: /etc/settings}
            - {name: password, mountPath: /etc/password}
      volumes:
        - {name: settings, configMap: {name: settings}}
        - {name: password, secret: {secretName: password}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-outside, namespace: shop}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30123}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: box, image: knarr.dev/busybox:1, command: [/bin/sleep, "3600"]}
---
apiVersion: v1
kind: Pod
metadata: {name: asker, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {name: web, image: knarr.dev/web:1, command: [/web, sleep, 1h]}
`

// cluster is a running cluster of two real nodes with the web application in it.
type cluster struct{ *server }

// who is what the web program answers.
type who struct{ Hostname, Address, Client, Version string }

func (c cluster) exec(t *testing.T, pod string, command ...string) string {
	t.Helper()
	return c.kubectl(t, append([]string{"exec", "-n", "shop", pod, "--"}, command...)...)
}

// ask calls a URL from inside a pod.
func (c cluster) ask(t *testing.T, url string) (who, error) {
	t.Helper()
	out, err := c.kubectlInput(t.Context(), "", "exec", "-n", "shop", "asker", "--", "/web", "get", url)
	if err != nil {
		return who{}, fmt.Errorf("%w: %s", err, out)
	}
	var w who
	return w, json.Unmarshal([]byte(out), &w)
}

func (c cluster) pods(t *testing.T, selector string) []corev1.Pod {
	t.Helper()
	l, err := c.clientset(t).CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return l.Items
}

func (c cluster) rolledOut(t *testing.T) {
	t.Helper()
	c.kubectl(t, "rollout", "status", "-n", "shop", "deployment/web", "--timeout=120s")
}

// nodePort is the URL of the NodePort Service on the first node.
func (c cluster) nodePort(t *testing.T) string {
	t.Helper()
	ip := c.kubectl(t, "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	return "http://" + ip + ":30123/"
}

// imageArchives builds the sample images once.
func imageArchives(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "run", "knarr.dev/test/images/build", "--out", dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build images: %v\n%s", err, out)
	}
	return []string{filepath.Join(dir, "web.tar"), filepath.Join(dir, "busybox.tar")}
}

func requireNode(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: runs containers in network namespaces")
	}
	for _, p := range []string{"containerd", "runc", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%v: run `make deps`", err)
		}
	}
}

// TestCluster goes through a day of two real nodes. Its steps build on each other.
func TestCluster(t *testing.T) {
	requireNode(t)
	archives := imageArchives(t)
	c := cluster{startServer(t, "up", "--nodes", "2", "--node-name", "node",
		"--pod-cidr", "10.142.0.0/16", "--service-cidr", "10.143.0.0/16", "--node-cidr", "10.144.0.0/16",
		"--image", archives[0], "--image", archives[1])}
	for _, step := range []struct {
		name string
		run  func(*testing.T, cluster)
	}{
		{"application becomes ready", stepReady},
		{"all replicas answer through the Service name and the NodePort", stepServices},
		{"pods see each other's address across nodes", stepPodToPod},
		{"config map, secret and environment arrive", stepConfiguration},
		{"killed container restarts", stepRestart},
		{"deleted pod is replaced", stepReplace},
		{"scaling", stepScale},
		{"rolling update loses no request", stepRollingUpdate},
		{"rollout undo", stepUndo},
		{"logs, exec, attach, port-forward, cp", stepStreams},
		{"describe, explain, diff, apply", stepKubectl},
		{"restart of the server keeps containers", stepAdopt},
		{"namespace deletion removes everything", stepNamespace},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c) }) {
			t.Logf("pods:\n%s", c.dump(t))
			return
		}
	}
}

func (c cluster) dump(t *testing.T) string {
	out, _ := c.kubectlInput(t.Context(), "", "get", "pods,nodes,services,endpointslices", "-A", "-o", "wide")
	events, _ := c.kubectlInput(t.Context(), "", "get", "events", "-A")
	return out + tailText(events, 40)
}

func tailText(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func stepReady(t *testing.T, c cluster) {
	c.apply(t, webApp)
	c.rolledOut(t)
	c.kubectl(t, "wait", "-n", "shop", "--for=condition=Ready", "pod/client", "pod/asker", "--timeout=60s")
	if again := c.apply(t, webApp); strings.Contains(again, "configured") || strings.Contains(again, "created") {
		t.Errorf("applying twice changes something:\n%s", again)
	}
	nodes := map[string]bool{}
	for _, p := range c.pods(t, "app=web") {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != 2 {
		t.Errorf("pods are on %v, want both nodes", nodes)
	}
}

func stepServices(t *testing.T, c cluster) {
	for _, url := range []string{"http://web/", "http://web.shop.svc.cluster.local/"} {
		seen := map[string]bool{}
		eventually(t, 30*time.Second, func() error {
			w, err := c.ask(t, url)
			if err != nil {
				return err
			}
			if seen[w.Hostname] = true; len(seen) < 3 {
				return fmt.Errorf("%s: only %v answered", url, seen)
			}
			return nil
		})
	}
	seen := map[string]bool{}
	eventually(t, 30*time.Second, func() error {
		w, err := fetch(t.Context(), c.nodePort(t))
		if err != nil {
			return err
		}
		if seen[w.Hostname] = true; len(seen) < 3 {
			return fmt.Errorf("node port: only %v answered", seen)
		}
		return nil
	})
}

func fetch(ctx context.Context, url string) (who, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return who{}, err
	}
	r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(q)
	if err != nil {
		return who{}, err
	}
	defer r.Body.Close()
	var w who
	return w, json.NewDecoder(r.Body).Decode(&w)
}

func stepPodToPod(t *testing.T, c cluster) {
	client, err := c.clientset(t).CoreV1().Pods("shop").Get(t.Context(), "asker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	across := false
	for _, p := range c.pods(t, "app=web") {
		w, err := c.ask(t, "http://"+p.Status.PodIP+":8080/")
		if err != nil {
			t.Errorf("%s on %s: %v", p.Name, p.Spec.NodeName, err)
			continue
		}
		if w.Client != client.Status.PodIP || w.Address != p.Status.PodIP {
			t.Errorf("%s saw %s at %s, want %s at %s", p.Name, w.Client, w.Address, client.Status.PodIP, p.Status.PodIP)
		}
		across = across || p.Spec.NodeName != client.Spec.NodeName
	}
	if !across {
		t.Error("no pod was on the other node")
	}
}

func stepConfiguration(t *testing.T, c cluster) {
	p := c.pods(t, "app=web")[0]
	for _, want := range []struct{ got, want string }{
		{c.exec(t, p.Name, "/web", "cat", "/etc/settings/greeting"), "hello"},
		{c.exec(t, p.Name, "/web", "cat", "/etc/password/password"), "open-sesame"},
	} {
		if want.got != want.want {
			t.Errorf("got %q, want %q", want.got, want.want)
		}
	}
	env := c.exec(t, p.Name, "/web", "get", "http://127.0.0.1:8080/env")
	for _, want := range []string{"GREETING=hello", "POD_IP=" + p.Status.PodIP, "KUBERNETES_SERVICE_HOST=10.143.0.1", "HOSTNAME=" + p.Name} {
		if !strings.Contains(env, want+"\n") {
			t.Errorf("no %s in the environment:\n%s", want, env)
		}
	}
	token := c.exec(t, p.Name, "/web", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if strings.Count(token, ".") != 2 {
		t.Errorf("the token is no JWT: %q", token)
	}
}

func stepRestart(t *testing.T, c cluster) {
	p := c.pods(t, "app=web")[0]
	c.kubectlInput(t.Context(), "", "exec", "-n", "shop", p.Name, "--", "/web", "get", "http://127.0.0.1:8080/exit?code=3")
	eventually(t, time.Minute, func() error {
		now, err := c.clientset(t).CoreV1().Pods("shop").Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := now.Status.ContainerStatuses[0]
		if s.RestartCount != 1 || !s.Ready || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 3 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}

func stepReplace(t *testing.T, c cluster) {
	p := c.pods(t, "app=web")[0]
	c.kubectl(t, "delete", "pod", "-n", "shop", p.Name)
	c.rolledOut(t)
	for _, other := range c.pods(t, "app=web") {
		if other.Name == p.Name {
			t.Errorf("%s is still there", p.Name)
		}
	}
}

func stepScale(t *testing.T, c cluster) {
	for _, n := range []int{5, 2, 3} {
		c.kubectl(t, "scale", "-n", "shop", "deployment/web", fmt.Sprintf("--replicas=%d", n))
		c.rolledOut(t)
		eventually(t, time.Minute, func() error {
			if pods := c.pods(t, "app=web"); len(pods) != n {
				return fmt.Errorf("%d pods, want %d", len(pods), n)
			}
			return nil
		})
	}
}

func stepRollingUpdate(t *testing.T, c cluster) {
	url := c.nodePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	var asked, lost atomic.Int64
	var problem atomic.Value
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, err := fetch(context.WithoutCancel(ctx), url); err != nil {
				lost.Add(1)
				problem.Store(err.Error())
			}
			asked.Add(1)
			time.Sleep(2 * time.Millisecond)
		}
	}()
	c.kubectl(t, "set", "env", "-n", "shop", "deployment/web", "VERSION=2")
	c.rolledOut(t)
	eventually(t, time.Minute, func() error {
		if n := len(c.pods(t, "app=web")); n != 3 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	cancel()
	<-done
	if lost.Load() != 0 {
		t.Errorf("%d of %d requests lost: %v", lost.Load(), asked.Load(), problem.Load())
	}
	t.Logf("%d requests during the update", asked.Load())
	if w, err := fetch(t.Context(), url); err != nil || w.Version != "2" {
		t.Errorf("after the update: %+v, %v", w, err)
	}
}

func stepUndo(t *testing.T, c cluster) {
	if h := c.kubectl(t, "rollout", "history", "-n", "shop", "deployment/web"); !strings.Contains(h, "2 ") {
		t.Errorf("history:\n%s", h)
	}
	c.kubectl(t, "rollout", "undo", "-n", "shop", "deployment/web")
	c.rolledOut(t)
	url := c.nodePort(t)
	eventually(t, 30*time.Second, func() error {
		if w, err := fetch(t.Context(), url); err != nil || w.Version != "1" {
			return fmt.Errorf("%+v, %v", w, err)
		}
		return nil
	})
}

func stepKubectl(t *testing.T, c cluster) {
	p := c.pods(t, "app=web")[0]
	for _, want := range []struct {
		args []string
		has  []string
	}{
		{[]string{"describe", "pod", "-n", "shop", p.Name}, []string{"Ready:          True", "Successfully assigned shop/" + p.Name, "Container started", "Controlled By:  ReplicaSet/web-"}},
		{[]string{"describe", "deployment", "-n", "shop", "web"}, []string{"NewReplicaSet:", "ScalingReplicaSet", "Replicas:               3 desired"}},
		{[]string{"explain", "deployment.spec.strategy"}, []string{"rollingUpdate", "<RollingUpdateDeployment>"}},
		{[]string{"explain", "pods", "--recursive"}, []string{"terminationMessagePath"}},
		{[]string{"get", "pods", "-n", "shop", "-o", "wide"}, []string{"READY", "NOMINATED NODE", "1/1"}},
		{[]string{"get", "all", "-n", "shop"}, []string{"service/web", "replicaset.apps/web-", "deployment.apps/web"}},
		{[]string{"auth", "can-i", "create", "pods"}, []string{"yes"}},
		{[]string{"api-resources"}, []string{"deployments", "endpointslices"}},
	} {
		out := c.kubectl(t, want.args...)
		for _, has := range want.has {
			if !strings.Contains(out, has) {
				t.Errorf("kubectl %s: no %q in\n%s", strings.Join(want.args, " "), has, out)
			}
		}
	}
	changed := strings.Replace(webApp, "greeting: hello", "greeting: ahoy", 1)
	out, err := c.kubectlInput(t.Context(), changed, "diff", "-f", "-")
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(out, "+  greeting: ahoy") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: shop}\ndata: {greeting: salut}\n"
	out, err = c.kubectlInput(t.Context(), config, "apply", "--server-side", "--field-manager=other", "-f", "-")
	if err == nil || !strings.Contains(out, "conflict") || !strings.Contains(out, ".data.greeting") {
		t.Errorf("server-side apply over another manager: %v\n%s", err, out)
	}
	c.apply(t, config, "--server-side", "--field-manager=other", "--force-conflicts")
	if got := c.kubectl(t, "get", "configmap", "-n", "shop", "settings", "-o", "jsonpath={.data.greeting}"); got != "salut" {
		t.Errorf("after forcing: %q", got)
	}
}

func stepNamespace(t *testing.T, c cluster) {
	c.kubectl(t, "delete", "namespace", "shop", "--timeout=120s")
	kube := c.clientset(t)
	if _, err := kube.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace: %v", err)
	}
	if n := len(c.pods(t, "")); n != 0 {
		t.Errorf("%d pods are left", n)
	}
	left, err := kube.AppsV1().ReplicaSets("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("replica sets left: %v, %v", left.Items, err)
	}
}
