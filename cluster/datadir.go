// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDataDir makes the data directory and takes its lock, which the kernel gives back when the process ends.
func (c *Cluster) lockDataDir(context.Context) error {
	if err := os.MkdirAll(c.config.DataDir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(c.config.DataDir, "lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s is in use by another knarr process", c.config.DataDir)
		}
		return fmt.Errorf("lock %s: %w", name, err)
	}
	c.parts.onStop("data directory", f.Close)
	return nil
}
