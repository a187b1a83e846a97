// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
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
		Short: "Stop the cluster that up --detach started, or clean up after one that was killed",
		Long: "Stop the cluster that up --detach started. If it does not run any more, because it was killed, end what it left on this machine:\n" +
			"containers, mounts, control groups, network links, rules and routes. The same for an agent, and for pods that --keep-pods kept.\n" +
			"The data stay.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			pid, ok := running(dir)
			if !ok {
				return clear(c, dir)
			}
			return stop(c.Context(), dir, pid, timeout)
		},
	}
	c.Flags().StringVar(&dir, "data-dir", cluster.DefaultDataDir(), "directory of the cluster's state")
	c.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for it to stop")
	return c
}

// stop ends the process of a cluster in good order.
func stop(ctx context.Context, dir string, pid int, timeout time.Duration) error {
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
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// clear ends what a cluster left that does not run.
func clear(c *cobra.Command, dir string) error {
	log, _, err := logger("warn", cluster.LogText, 0)
	if err != nil {
		return err
	}
	err = cluster.Clear(c.Context(), dir, log)
	if errors.Is(err, cluster.ErrNothingLeft) {
		return fmt.Errorf("no cluster of data directory %s runs in the background, and none has left anything", dir)
	}
	if err != nil {
		return fmt.Errorf("clean up after the cluster of %s: %w", dir, err)
	}
	if err := os.Remove(pidFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "cleaned up after the cluster of %s, which was not running\n", dir)
	return nil
}
