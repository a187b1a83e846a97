// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/cri"
	"knarr.dev/node/image"
	"knarr.dev/node/volume"
)

// Clear stops what an agent with this configuration left behind when it was killed: its pods with their mounts, control groups and
// network. Of the configuration it uses DataDir, NetNS, PodCIDR, Bridge and ContainerdSocket. Images stay; pods start anew when the
// agent does.
func Clear(ctx context.Context, config Config, log *slog.Logger) error {
	if _, err := os.Stat(config.DataDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	a := &Agent{config: config, log: log, volumes: &volume.Volumes{Dir: filepath.Join(config.DataDir, "pods")}}
	var err error
	if a.cgroups, err = cgroup.Mounted(); err != nil {
		return err
	}
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	failed := make(chan error, 1)
	if config.ContainerdSocket == "" {
		child := cri.NewChild(cri.ChildConfig{
			Dir: filepath.Dir(a.Socket()), NetNS: config.NetNS, PodCIDR: config.PodCIDR, Bridge: config.Bridge, PauseImage: image.PauseRef,
		}, log)
		wait.Go(func() {
			if err := child.Run(below); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	if a.cri, err = cri.Dial(a.Socket()); err != nil {
		return err
	}
	defer a.cri.Close()
	if _, err := a.cri.WaitReady(starting, false); err != nil {
		select {
		case err = <-failed:
		default:
		}
		return fmt.Errorf("container runtime: %w", err)
	}
	a.stopPods(ctx)
	return a.removeBridge()
}
