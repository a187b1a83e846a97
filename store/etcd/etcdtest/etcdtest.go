// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package etcdtest starts etcd servers for tests.
//
// Each is a process of its own with its data in a temporary directory; it is killed at the end of the test. The program is built from
// the module test/etcd and kept in Go's build cache.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds how long an etcd takes until it is healthy.
const startTimeout = 60 * time.Second

// Server is one etcd, alone in its cluster.
type Server struct {
	// Endpoint is its URL.
	Endpoint string

	t       testing.TB
	args    []string
	health  string
	process *exec.Cmd
	ended   chan error // gets the process's end
	output  bytes.Buffer
}

// Start starts an etcd with additional arguments, which may change those that are given here.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	addresses := free(t, 3)
	s := &Server{t: t, Endpoint: "http://" + addresses[0], health: "http://" + addresses[1]}
	peer := "http://" + addresses[2]
	s.args = append([]string{
		Program(t), "--name=test", "--data-dir=" + filepath.Join(dir, "etcd"), "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=" + s.Endpoint, "--advertise-client-urls=" + s.Endpoint,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=test=" + peer,
		"--listen-metrics-urls=" + s.health, "--heartbeat-interval=20", "--election-timeout=200",
	}, args...)
	for _, a := range args {
		if url, ok := strings.CutPrefix(a, "--advertise-client-urls="); ok {
			s.Endpoint = url
		}
	}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// Run starts the server again on its data after Kill, and waits until it is healthy.
func (s *Server) Run() {
	s.t.Helper()
	s.process = exec.Command(s.args[0], s.args[1:]...)
	s.process.Stdout, s.process.Stderr = &s.output, &s.output
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	process, ended := s.process, make(chan error, 1)
	go func() { ended <- process.Wait() }()
	s.ended = ended
	ctx, cancel := context.WithTimeout(s.t.Context(), startTimeout)
	defer cancel()
	for {
		if err := s.healthy(ctx); err == nil {
			return
		}
		select {
		case err := <-ended:
			s.process = nil
			s.t.Fatalf("etcd ended: %v\n%s", err, &s.output)
		case <-ctx.Done():
			s.t.Fatalf("etcd is not healthy: %v\n%s", ctx.Err(), &s.output)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill kills the server, as a crash of its process does, and waits until it is gone.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	<-s.ended
	s.process = nil
}

func (s *Server) healthy(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", answer.Status)
	}
	return nil
}

// Program builds etcd, unless the build cache has it, and returns its file.
func Program(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		module := filepath.Join(dir, "test", "etcd")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			dir = module
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("module test/etcd not found above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	build := exec.Command("go", "tool", "-n", "server")
	build.Dir, build.Stderr = dir, os.Stderr
	build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -trimpath", "CGO_ENABLED=0")
	out, err := build.Output()
	if err != nil {
		t.Fatalf("build etcd: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// free returns different free addresses of the loopback interface.
func free(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are chosen
		out = append(out, l.Addr().String())
	}
	return out
}
