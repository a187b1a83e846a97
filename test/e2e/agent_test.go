// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wire is the network between the machines of the test: a bridge with the server's address, and a network namespace for each
// other machine.
type wire struct{ bridge, server string }

func newWire(t *testing.T) wire {
	t.Helper()
	w := wire{bridge: "knarr-e2e-join", server: "10.164.0.1"}
	_ = exec.Command("ip", "link", "del", w.bridge).Run() // of a test that was killed
	command(t, "ip", "link", "add", w.bridge, "type", "bridge")
	t.Cleanup(func() { command(t, "ip", "link", "del", w.bridge) })
	command(t, "ip", "address", "add", w.server+"/24", "dev", w.bridge)
	command(t, "ip", "link", "set", w.bridge, "up")
	return w
}

// machine adds a network namespace with an address.
func (w wire) machine(t *testing.T, name, address string) (namespace string) {
	t.Helper()
	namespace = "knarr-e2e-" + name
	_ = exec.Command("ip", "netns", "del", namespace).Run()
	command(t, "ip", "netns", "add", namespace)
	t.Cleanup(func() { command(t, "ip", "netns", "del", namespace) })
	command(t, "ip", "link", "add", "ke2e-"+name, "master", w.bridge, "up", "type", "veth", "peer", "name", "eth0", "netns", namespace)
	inside := []string{"netns", "exec", namespace, "ip"}
	command(t, "ip", append(inside, "link", "set", "lo", "up")...)
	command(t, "ip", append(inside, "address", "add", address+"/24", "dev", "eth0")...)
	command(t, "ip", append(inside, "link", "set", "eth0", "up")...)
	command(t, "ip", append(inside, "route", "add", "default", "via", w.server)...)
	return namespace
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// newAgent is an agent in a network namespace that is not started yet.
func newAgent(t *testing.T, namespace string, args ...string) *server {
	t.Helper()
	a := newInside(t, namespace, "agent")
	a.args = append(a.args, "--data-dir", a.dir, roomLeft)
	a.args = append(a.args, args...)
	return a
}

// newInside is a subcommand in a network namespace that is not started yet.
func newInside(t *testing.T, namespace, subcommand string) *server {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "knarr-data")
	if err != nil {
		t.Fatal(err)
	}
	a := &server{dir: dir, program: "nsenter"}
	a.args = []string{"--net=/run/netns/" + namespace, filepath.Join(bin, "knarr"), subcommand, "--log-level", "info"}
	if a.log, err = os.Create(filepath.Join(dir, "e2e.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.stop(t)
		if t.Failed() {
			t.Logf("log of knarr %s:\n%s", subcommand, tail(a.log.Name(), 60))
		}
		a.log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove data directory: %v", err)
		}
	})
	return a
}

// refused runs an agent that must not start and returns what it says.
func refused(t *testing.T, a *server, args ...string) string {
	t.Helper()
	out, err := exec.Command(a.program, append(a.args[:len(a.args):len(a.args)], args...)...).CombinedOutput()
	if err == nil {
		t.Fatalf("an agent with %v started", args)
	}
	return string(out)
}

// TestAgentJoins starts a control plane alone and two machines that join it as nodes by token, runs pods there that reach each
// other, and then kills an agent: its next start, without token, finds the container running.
func TestAgentJoins(t *testing.T) {
	requireNode(t)
	archives := imageArchives(t)
	w := newWire(t)
	s := startServer(t, "server", "--listen", w.server+":16443",
		"--service-cidr", "10.163.0.0/16", "--pod-cidr", "10.162.0.0/16", "--node-cidr", "10.165.0.0/16")
	knarr := func(args ...string) string { return strings.TrimSpace(command(t, s.program, args...)) }
	join := knarr("token", "create", "--data-dir", s.dir, "--print-join-command", "--description", "for a test")
	t.Log(join)
	flags := strings.Fields(join)[2:] // knarr agent --server URL --token TOKEN --ca-hash HASH
	url, token, hash := flags[1], flags[3], flags[5]
	if list := knarr("token", "list", "--data-dir", s.dir); !strings.Contains(list, token) || !strings.Contains(list, "for a test") {
		t.Errorf("knarr token list: %s", list)
	}

	one := newAgent(t, w.machine(t, "one", "10.164.0.11"), "--node-name", "one")
	two := newAgent(t, w.machine(t, "two", "10.164.0.12"), "--node-name", "two")
	for _, bad := range []struct {
		args []string
		want string
	}{
		{nil, "give --server URL and --token TOKEN"},
		{[]string{"--server", url}, "give a --token"},
		{[]string{"--server", url, "--token", "abcdef.0123456789abcdef"}, "the token is wrong or expired"},
		{[]string{"--server", url, "--token", "abcdef.0123456789abcdef", "--ca-hash", hash}, "refuses the token"},
		{[]string{"--server", url, "--token", token[:len(token)-4] + "0000"}, "second half is wrong"},
		{[]string{"--server", url, "--token", token, "--ca-hash", "sha256:" + strings.Repeat("0", 64)}, "is not the expected cluster"},
		{[]string{"--server", "https://" + w.server + ":1", "--token", token}, "connection refused"},
		{[]string{"--server", url, "--token", "secret"}, "token: a token has the form"},
	} {
		if got := refused(t, one, bad.args...); !strings.Contains(got, bad.want) {
			t.Errorf("agent with %v: got %q, want %q", bad.args, got, bad.want)
		}
	}

	first := one.args
	one.args = append(one.args[:len(one.args):len(one.args)], flags...)
	one.start(t)
	plain := two.args
	two.args = append(two.args[:len(two.args):len(two.args)], flags[:4]...) // without the hash: the token's signature is enough
	two.start(t)
	for _, a := range []*server{one, two} {
		command(t, s.program, "image", "import", "--data-dir", a.dir, archives[0])
	}
	kube := s.clientset(t)
	eventually(t, time.Minute, func() error {
		for _, name := range []string{"one", "two"} {
			n, err := kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			ready := false
			for _, c := range n.Status.Conditions {
				ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}
			if !ready || len(n.Spec.Taints) > 0 {
				return fmt.Errorf("node %s: taints %v, conditions %v", name, n.Spec.Taints, n.Status.Conditions)
			}
		}
		return nil
	})

	s.apply(t, joinedApp)
	s.kubectl(t, "wait", "pod/here", "pod/there", "--for=condition=Ready", "--timeout=90s")
	if log := s.kubectl(t, "logs", "here"); log == "" {
		t.Error("the log of the pod is empty")
	}
	for _, to := range []string{"there", "there.default.svc.cluster.local"} { // across nodes, by Service and DNS
		if out := s.kubectl(t, "exec", "here", "--", "/web", "get", "http://"+to+"/"); !strings.Contains(out, `"there"`) {
			t.Errorf("from one node to the other by %s: %s", to, out)
		}
	}
	ip := s.kubectl(t, "get", "pod", "there", "-o", "jsonpath={.status.podIP}")
	if out := s.kubectl(t, "exec", "here", "--", "/web", "get", "http://"+ip+":8080/"); !strings.Contains(out, `"there"`) {
		t.Errorf("from one node to the other by address: %s", out)
	}

	container := func() string {
		return s.kubectl(t, "get", "pod", "here", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
	}
	before := container()
	one.kill(t)
	knarr("token", "delete", "--data-dir", s.dir, token)
	one.args, two.args = first, plain
	one.start(t)
	s.kubectl(t, "wait", "node/one", "--for=condition=Ready", "--timeout=60s")
	if out := s.kubectl(t, "exec", "here", "--", "/web", "get", "http://there/"); !strings.Contains(out, `"there"`) {
		t.Errorf("after the restart: %s", out)
	}
	if after := container(); after != before {
		t.Errorf("container %q after the restart, %q before", after, before)
	}
	if got := refused(t, two, "--node-name", "three"); !strings.Contains(got, "in use by another knarr process") {
		t.Errorf("a second agent of a data directory: %s", got)
	}
}

const joinedApp = `
apiVersion: v1
kind: Pod
metadata: {name: here}
spec:
  nodeName: one
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: knarr.dev/web:1
      readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: there, labels: {app: there}}
spec:
  nodeName: two
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: knarr.dev/web:1
      readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: there}
spec: {selector: {app: there}, ports: [{port: 80, targetPort: 8080}]}
`
