// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPauseEndsOnTerm(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		program, err := pauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := elf.NewFile(bytes.NewReader(program)); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
		if arch != runtime.GOARCH || runtime.GOOS != "linux" {
			continue
		}
		path := filepath.Join(t.TempDir(), "pause")
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for _, signal := range []unix.Signal{unix.SIGCHLD, unix.SIGHUP} {
			for !sleeps(t, cmd.Process.Pid) {
				runtime.Gosched()
			}
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: ended with %v", arch, err)
		}
	}
}

// sleeps tells whether a process waits, which the program does for signals only.
func sleeps(t *testing.T, pid int) bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(raw, []byte(") S "))
}

func TestPauseImageIsDeterministic(t *testing.T) {
	var first, second bytes.Buffer
	if err := WritePause(&first, "amd64"); err != nil {
		t.Fatal(err)
	}
	if err := WritePause(&second, "amd64"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of one image differ")
	}
}
