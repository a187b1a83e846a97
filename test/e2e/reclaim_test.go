// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownerFile is where a data directory says which test process it belongs to.
const ownerFile = "e2e.owner"

type owner struct {
	PID     int
	Program string
}

// remember notes that a data directory is that of a cluster of this process, for reclaim.
func remember(dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := json.Marshal(owner{PID: os.Getpid(), Program: program})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ownerFile), b, 0o600)
}

// reclaim ends clusters that tests left behind which were killed themselves: their addresses, links and containers would be in the way.
// `knarr down` cleans up after each.
func reclaim() {
	files, _ := filepath.Glob(filepath.Join(os.TempDir(), "knarr-data*", ownerFile))
	for _, file := range files {
		dir := filepath.Dir(file)
		if !ours(dir) {
			continue // anybody may make directories there
		}
		if err := reclaimOne(dir, file); err != nil {
			fmt.Fprintf(os.Stderr, "cannot reclaim %s: %v\n", dir, err)
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// ours tells whether a directory is one that only this user can have filled.
func ours(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// errRuns says that the tests which a cluster belongs to still run.
var errRuns = errors.New("its tests still run")

func reclaimOne(dir, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var was owner
	if err := json.Unmarshal(b, &was); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", was.PID)); err == nil && strings.TrimSuffix(program, " (deleted)") == was.Program {
		return errRuns
	}
	if err := killUsers(dir); err != nil {
		return err
	}
	bin, err := programs()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "run", "left.json")); errors.Is(err, os.ErrNotExist) {
		return nil // it ended in good order, or before it made anything
	}
	if out, err := exec.Command(filepath.Join(bin, "knarr"), "down", "--data-dir", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// killUsers kills servers of a data directory that still run.
func killUsers(dir string) error {
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, p := range processes {
		b, err := os.ReadFile(p)
		if args := strings.Split(string(b), "\x00"); err != nil || len(args) < 4 || args[1] != "up" || args[3] != dir {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
		for i := 0; syscall.Kill(pid, 0) == nil; i++ {
			if i == 1000 {
				return fmt.Errorf("process %d does not end", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}
