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

// argsFile is where a data directory says how its server was started.
const argsFile = "e2e.args"

// started says how the server of a data directory was started, and by which test process.
type started struct {
	Args    []string
	PID     int
	Program string
}

// remember notes how the server of a data directory is started, for reclaim.
func remember(dir string, args []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := json.Marshal(started{Args: args, PID: os.Getpid(), Program: program})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, argsFile), b, 0o600)
}

// reclaim ends clusters that tests left behind which were killed themselves: their addresses, links and containers would be in the way.
// Each is started once more, takes over what is there, and stops in good order.
func reclaim() {
	files, _ := filepath.Glob(filepath.Join(os.TempDir(), "knarr-data*", argsFile))
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
	var was started
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
	cmd := exec.Command(filepath.Join(bin, "knarr"), was.Args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	kill := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_, _ = out.Read(make([]byte, 1)) // it is ready, or has given up
	_ = cmd.Process.Signal(syscall.SIGTERM)
	return cmd.Wait()
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
