// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
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

// remember notes how the server of a data directory is started, for reclaim.
func remember(dir string, args []string) error {
	b, err := json.Marshal(args)
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
		if err := reclaimOne(dir, file); err != nil {
			fmt.Fprintf(os.Stderr, "cannot reclaim %s: %v\n", dir, err)
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func reclaimOne(dir, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var args []string
	if err := json.Unmarshal(b, &args); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := killUsers(dir); err != nil {
		return err
	}
	bin, err := programs()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(bin, "knarr"), args...)
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
