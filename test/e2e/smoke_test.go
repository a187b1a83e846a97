// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"knarr.dev/store/etcd/etcdtest"
)

// TestClients runs other people's clients against one cluster of a real node. What is written in Go is in the modules below folder
// clients, so that Knarr does not depend on it.
func TestClients(t *testing.T) {
	requireNode(t)
	archives := imageArchives(t)
	bin := t.TempDir()
	build(t, "clients", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", bin+"/", "./helm3", "./helm4", "./controllerruntime")
	old := filepath.Join(bin, "kubectl-1.32")
	build(t, "clients/kubectl132", "build", "-trimpath", "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.32.3", "-o", old)
	assets := envtestAssets(t)
	t.Setenv("KUBEBUILDER_ASSETS", assets)
	c := cluster{startServer(t, "up", "--node-name", "node",
		"--pod-cidr", "10.152.0.0/16", "--service-cidr", "10.153.0.0/16", "--node-cidr", "10.154.0.0/16",
		"--image", archives[0], "--image", archives[1])}
	for _, one := range []struct{ name, dir, program string }{
		{"controller-runtime", "clients/controllerruntime", "controllerruntime.test"},
		{"Helm 3", "clients/helm3", "helm3.test"},
		{"Helm 4", "clients/helm4", "helm4.test"},
	} {
		t.Run(one.name, func(t *testing.T) { c.client(t, one.dir, filepath.Join(bin, one.program), "-test.v", "-test.failfast") })
	}
	t.Run("kubectl 1.32 and 1.36", func(t *testing.T) { c.kubectlVersions(t, old) })
	t.Run("python3-kubernetes", func(t *testing.T) {
		c.client(t, "clients/python", "/usr/bin/python3", "-W", "ignore", "-m", "unittest", "-v", "smoke_test")
	})
}

// envtestAssets returns a directory with what envtest starts: this program in the place of kube-apiserver, etcd and kubectl.
func envtestAssets(t *testing.T) string {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, program := range map[string]string{
		"kube-apiserver": filepath.Join(bin, "knarr"), "kubectl": filepath.Join(bin, "kubectl"), "etcd": etcdtest.Program(t),
	} {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build runs the go command in a module of its own.
func build(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, out)
	}
}

// client runs a program that finds the cluster by the variable KUBECONFIG.
func (c cluster) client(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "KUBECONFIG="+c.kubeconfig(), "PYTHONDONTWRITEBYTECODE=1")
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v\n%s\n%s", program, err, out.String(), c.dump(t))
		return
	}
	t.Logf("%s", out.String())
}
