// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// programs builds knarr and kubectl once for all tests of the package and returns their directory.
var programs = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "knarr-e2e")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3",
		"-o", dir+"/", "knarr.dev/cmd/knarr", "knarr.dev/cmd/kubectl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	reclaim()
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// roomLeft lets tests run on a machine whose disk is nearly full.
const roomLeft = "--eviction-hard=memory.available<100Mi,nodefs.available<500Mi"

// server is one knarr process.
type server struct {
	dir, listen, program string
	says                 string // once it is ready; "knarr ready" if empty
	args                 []string
	cmd                  *exec.Cmd
	log                  *os.File
	exited               chan struct{}
}

// startServer starts a subcommand with a data directory and port of its own and stops it after the test.
func startServer(t *testing.T, subcommand string, args ...string) *server {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "knarr-data") // not t.TempDir: the name must be short for sockets
	if err != nil {
		t.Fatal(err)
	}
	s := &server{dir: dir, listen: freeAddress(t), program: filepath.Join(bin, "knarr")}
	s.args = append([]string{subcommand, "--data-dir", dir, "--listen", s.listen, "--log-level", "info"}, args...)
	if subcommand == "up" {
		s.args = append(s.args, roomLeft)
		if err := remember(dir); err != nil {
			t.Fatal(err)
		}
	}
	if s.log, err = os.Create(filepath.Join(dir, "e2e.log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop(t)
		if t.Failed() {
			t.Logf("log of the server:\n%s", tail(s.log.Name(), 60))
		}
		s.log.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove data directory: %v", err)
		}
	})
	s.start(t)
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the process until it says that it is ready.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(s.program, s.args...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.exited = make(chan struct{})
	ready := make(chan string, 1)
	go func(cmd *exec.Cmd, exited chan struct{}) {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		ready <- line
		io.Copy(io.Discard, r)
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
	select {
	case line := <-ready:
		if !strings.HasPrefix(line, cmp.Or(s.says, "knarr ready")) {
			t.Fatalf("not ready: %q\n%s", line, tail(s.log.Name(), 40))
		}
	case <-time.After(2 * time.Minute):
		s.kill(t)
		t.Fatalf("not ready in time\n%s", tail(s.log.Name(), 40))
	}
}

// kill ends the process as a crash would.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.exited
}

// stop ends the process in good order.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(time.Minute):
		t.Errorf("the server did not stop within a minute of SIGTERM")
		s.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines go to the log
		<-s.exited
	}
}

func (s *server) kubeconfig() string { return filepath.Join(s.dir, "admin.kubeconfig") }

func (s *server) restConfig(t *testing.T) *rest.Config {
	t.Helper()
	c, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	c.QPS = -1
	return c
}

func (s *server) clientset(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.restConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// kubectl runs stock kubectl and returns what it prints; an error fails the test.
func (s *server) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.kubectlInput(t.Context(), "", args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// kubectlInput runs kubectl with standard input and returns its output, errors included.
func (s *server) kubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	bin, err := programs()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), append([]string{"--kubeconfig", s.kubeconfig()}, args...)...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply applies a manifest.
func (s *server) apply(t *testing.T, manifest string, args ...string) string {
	t.Helper()
	out, err := s.kubectlInput(t.Context(), manifest, append([]string{"apply", "-f", "-"}, args...)...)
	if err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	return out
}

// eventually repeats f until it returns nil.
func eventually(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func tail(file string, lines int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
