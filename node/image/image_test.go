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
		// A signal before the program blocks it would end it in another way: CHLD does no harm, and is waited for first.
		for _, signal := range []unix.Signal{unix.SIGCHLD, unix.SIGHUP} {
			for !blocks(t, cmd.Process.Pid) {
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

// blocks tells whether a process has all signals blocked.
func blocks(t *testing.T, pid int) bool {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(raw, []byte("SigBlk:\tfffffffe7ffbfeff")) || bytes.Contains(raw, []byte("SigBlk:\tffffffff")) || bytes.Contains(raw, []byte("SigBlk:\tfffffffffffbfeff"))
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
