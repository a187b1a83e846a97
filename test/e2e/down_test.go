// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDownAfterKill kills a cluster and lets `knarr down` clean up: nothing of it is left on the machine, and it can be started again.
func TestDownAfterKill(t *testing.T) {
	requireNode(t)
	for name, nodes := range map[string][]string{"one node": nil, "two nodes": {"--nodes", "2"}} {
		t.Run(name, func(t *testing.T) {
			before := onMachine(t, "")
			archives := imageArchives(t)
			s := startServer(t, "up", append([]string{"--node-name", "node", "--image", archives[0],
				"--pod-cidr", "10.162.0.0/16", "--service-cidr", "10.163.0.0/16", "--node-cidr", "10.164.0.0/16"}, nodes...)...)
			startContainers(t, s)
			if out, err := s.down(); err == nil || !strings.Contains(out, "in use") {
				t.Errorf("down of a cluster that runs in the foreground: %v: %s", err, out)
			}
			s.kill(t)
			if left := onMachine(t, s.dir); len(left) < len(before)+4 {
				t.Fatalf("a killed cluster left too little to try anything: %v", left)
			}
			if out, err := s.down(); err != nil || !strings.Contains(out, "cleaned up") {
				t.Fatalf("down: %v: %s", err, out)
			}
			if left := onMachine(t, s.dir); !maps.Equal(left, before) {
				for what := range left {
					if !before[what] {
						t.Errorf("left behind: %s", what)
					}
				}
			}
			if out, err := s.down(); err == nil || !strings.Contains(out, "none has left anything") {
				t.Errorf("down once more: %v: %s", err, out)
			}
			s.start(t)
			eventually(t, 2*time.Minute, func() error {
				if n := len(runningContainers(t, s)); n != 3 {
					return fmt.Errorf("%d of 3 containers run again", n)
				}
				return nil
			})
		})
	}
}

// down runs `knarr down`.
func (s *server) down() (string, error) {
	out, err := exec.Command(s.program, "down", "--data-dir", s.dir).CombinedOutput()
	return string(out), err
}

// onMachine is what clusters have on this machine: links, tables, routes and control groups of pods, and processes and mounts of a
// data directory.
func onMachine(t *testing.T, dir string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	command := func(args ...string) {
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			t.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
		for line := range strings.Lines(string(out)) {
			all[strings.Join(strings.Fields(line), " ")] = true
		}
	}
	command("nft", "list", "tables")
	command("ip", "route")
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		all["link "+l.Name()] = true
	}
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods/*/pod*", "/sys/fs/cgroup/*/kubepods/*/pod*"} {
		groups, _ := filepath.Glob(pattern)
		for _, g := range groups {
			all["control group "+g] = true
		}
	}
	if dir == "" {
		return all
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], dir+"/") {
			all["mount "+fields[4]] = true
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if args := bytes.Split(line, []byte{0}); err == nil && bytes.Contains(line, []byte(dir)) && !slices.ContainsFunc(args, func(a []byte) bool { return string(a) == "down" }) {
			all["process "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))] = true
		}
	}
	return all
}
