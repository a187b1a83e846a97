// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

const streamPods = `
apiVersion: v1
kind: Pod
metadata: {name: logger, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: knarr.dev/web:1, command: [/web, log, --every, 200ms]}]
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: shop}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: knarr.dev/web:1, command: [/web, echo], stdin: true}]
`

func stepStreams(t *testing.T, c cluster) {
	c.apply(t, streamPods)
	c.kubectl(t, "wait", "-n", "shop", "--for=condition=Ready", "pod/logger", "pod/echo", "--timeout=60s")
	t.Run("logs", func(t *testing.T) { logs(t, c) })
	t.Run("exec exit code", func(t *testing.T) {
		_, err := c.kubectlInput(t.Context(), "", "exec", "-n", "shop", "client", "--", "sh", "-c", "exit 7")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("got %v, want exit code 7", err)
		}
	})
	t.Run("exec with input", func(t *testing.T) {
		out, err := c.kubectlInput(t.Context(), "one\ntwo\n", "exec", "-i", "-n", "shop", "client", "--", "cat")
		if err != nil || out != "one\ntwo\n" {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("exec over SPDY", func(t *testing.T) { spdy(t, c) })
	t.Run("attach", func(t *testing.T) { attach(t, c) })
	t.Run("port-forward", func(t *testing.T) { portForward(t, c) })
	t.Run("cp", func(t *testing.T) { copyFiles(t, c) })
}

func logs(t *testing.T, c cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	bin, _ := programs()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), "--kubeconfig", c.kubeconfig(), "logs", "-f", "-n", "shop", "logger")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	lines := bufio.NewScanner(out)
	for want := 1; want <= 12; want++ {
		if !lines.Scan() {
			t.Fatalf("the log ended before line %d: %v", want, lines.Err())
		}
		if got := lines.Text(); got != fmt.Sprintf("line %d", want) {
			t.Fatalf("got %q, want line %d", got, want)
		}
	}
	if got := c.kubectl(t, "logs", "-n", "shop", "logger", "--tail=1"); !strings.HasPrefix(got, "line ") || strings.Count(got, "\n") != 1 {
		t.Errorf("--tail=1: %q", got)
	}
}

func spdy(t *testing.T, c cluster) {
	config := c.restConfig(t)
	request := c.clientset(t).CoreV1().RESTClient().Post().Namespace("shop").Resource("pods").Name("client").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: []string{"cat"}, Stdin: true, Stdout: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewSPDYExecutor(config, "POST", request.URL())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("over spdy"), Stdout: &out})
	if err != nil || out.String() != "over spdy" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// attach keeps its end of the input open until the answer is there: runtimes end a session with its input.
func attach(t *testing.T, c cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	bin, _ := programs()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), "--kubeconfig", c.kubeconfig(), "attach", "-q", "-i", "-n", "shop", "echo")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if _, err := io.WriteString(in, "ahoy\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ahoy" {
			return
		}
	}
	t.Errorf("the answer did not come: %v", lines.Err())
}

func portForward(t *testing.T, c cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	bin, _ := programs()
	pod := c.pods(t, "app=web")[0].Name
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), "--kubeconfig", c.kubeconfig(), "port-forward", "-n", "shop", "pod/"+pod, ":8080")
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
	var port int
	if _, scanErr := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d ->", &port); scanErr != nil {
		t.Fatalf("port-forward said %q: %v", line, err)
	}
	for range 5 {
		if w, err := fetch(ctx, fmt.Sprintf("http://127.0.0.1:%d/", port)); err != nil || w.Hostname != pod {
			t.Fatalf("got %+v, %v", w, err)
		}
	}
}

func copyFiles(t *testing.T, c cluster) {
	dir := t.TempDir()
	data := make([]byte, 5<<20)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "there"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, "cp", filepath.Join(dir, "there"), "shop/client:/tmp/there")
	c.kubectl(t, "cp", "shop/client:/tmp/there", filepath.Join(dir, "back"))
	back, err := os.ReadFile(filepath.Join(dir, "back"))
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("the file came back different: %d bytes, %v", len(back), err)
	}
	var out bytes.Buffer
	io.Copy(&out, strings.NewReader(c.exec(t, "client", "ls", "-l", "/tmp/there")))
	if !strings.Contains(out.String(), "5242880") {
		t.Errorf("in the pod: %s", out.String())
	}
}

// stepAdopt kills the server and looks whether the containers go on.
func stepAdopt(t *testing.T, c cluster) {
	identities := func() map[string]string {
		ids := map[string]string{}
		for _, p := range c.pods(t, "") {
			for _, s := range p.Status.ContainerStatuses {
				ids[p.Name+"/"+s.Name] = fmt.Sprintf("%s %d", s.ContainerID, s.RestartCount)
			}
		}
		return ids
	}
	c.kubectl(t, "wait", "-n", "shop", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	before := identities()
	c.kill(t)
	c.start(t)
	eventually(t, time.Minute, func() error {
		for _, n := range []string{"node-1", "node-2"} {
			out, err := c.kubectlInput(t.Context(), "", "get", "lease", "-n", "kube-node-lease", n)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		return nil
	})
	url := c.nodePort(t)
	eventually(t, time.Minute, func() error { _, err := fetch(t.Context(), url); return err })
	time.Sleep(3 * time.Second) // long enough for an agent that does not adopt to restart something
	after := identities()
	for name, id := range before {
		if after[name] != id {
			t.Errorf("%s: %s before, %s after the restart", name, id, after[name])
		}
	}
	if _, err := c.clientset(t).CoreV1().Pods("shop").Get(t.Context(), "client", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
