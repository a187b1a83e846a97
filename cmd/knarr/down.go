// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"knarr.dev/cluster"
)

func pidFile(dataDir string) string { return filepath.Join(dataDir, "knarr.pid") }

// running returns the process that `up --detach` left for this data directory, if it still is one of ours.
func running(dataDir string) (int, bool) {
	data, err := os.ReadFile(pidFile(dataDir))
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(cmdline, []byte("knarr\x00up")) {
		return 0, false
	}
	return pid, true
}

func downCommand() *cobra.Command {
	dir := ""
	timeout := 60 * time.Second
	c := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster that up --detach started",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pid, ok := running(dir)
			if !ok {
				return fmt.Errorf("no cluster of data directory %s runs in the background", dir)
			}
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
				return fmt.Errorf("stop process %d: %w", pid, err)
			}
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			deadline := time.After(timeout)
			for {
				if syscall.Kill(pid, 0) != nil {
					return os.Remove(pidFile(dir))
				}
				select {
				case <-tick.C:
				case <-deadline:
					return fmt.Errorf("process %d did not stop within %v", pid, timeout)
				case <-c.Context().Done():
					return c.Context().Err()
				}
			}
		},
	}
	c.Flags().StringVar(&dir, "data-dir", cluster.DefaultDataDir(), "directory of the cluster's state")
	c.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for it to stop")
	return c
}
