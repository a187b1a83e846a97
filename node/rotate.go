// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bounds of the logs of a container: size of a file in bytes, files, and how often they are looked at. They are those
// that Kubernetes has (containerLogMaxSize, containerLogMaxFiles, containerLogMonitorInterval).
const (
	maxLogSize  = 10 << 20
	maxLogFiles = 5
	rotateEvery = 10 * time.Second
)

// rotateLogs keeps the logs of running containers within bounds until ctx ends.
func (a *Agent) rotateLogs(ctx context.Context) {
	ticker := time.NewTicker(rotateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		a.rotateOnce(ctx, maxLogSize)
	}
}

// rotateOnce rotates the logs that are larger than limit, in bytes. The worker of a pod made its log directory, and its
// containers' names and attempts give the files.
func (a *Agent) rotateOnce(ctx context.Context, limit int64) {
	answer, err := a.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return // the relist says so
	}
	for _, c := range answer.Containers {
		dir := fmt.Sprintf("%s_%s_%s", c.Labels[labelPodNamespace], c.Labels[labelPodName], c.Labels[labelPodUID])
		path := filepath.Join(a.config.LogDir, dir, logPath(c.Metadata.GetName(), int32(c.Metadata.GetAttempt())))
		info, err := os.Stat(path)
		if err != nil || info.Size() < limit {
			continue
		}
		if err := a.rotate(ctx, c.Id, path); err != nil && ctx.Err() == nil {
			a.log.Warn("cannot rotate a log", "path", path, "error", err)
		}
	}
}

// rotate moves a log aside, lets the runtime open a new one, and removes the oldest.
func (a *Agent) rotate(ctx context.Context, id, path string) error {
	old := path + "." + a.now().UTC().Format("20060102-150405.000")
	if err := os.Rename(path, old); err != nil {
		return err
	}
	if _, err := a.cri.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("reopen log: %w", errors.Join(err, os.Rename(old, path)))
	}
	files, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files[:max(0, len(files)-(maxLogFiles-1))] {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}
