// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/pod"
)

// observe asks the runtime for what it has of a pod. ended caches containers that cannot change any more.
func (a *Agent) observe(ctx context.Context, uid string, ended map[string]pod.Container) (*pod.Observed, error) {
	filter := map[string]string{labelPodUID: uid}
	sandboxes, err := a.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: filter}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := a.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: filter}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	o := &pod.Observed{}
	for _, s := range sandboxes.Items {
		o.Sandboxes = append(o.Sandboxes, pod.Sandbox{
			ID: s.Id, Attempt: s.Metadata.Attempt, Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: time.Unix(0, s.CreatedAt),
		})
	}
	slices.SortFunc(o.Sandboxes, func(x, y pod.Sandbox) int { return y.CreatedAt.Compare(x.CreatedAt) })
	if s := o.Sandbox(); s != nil && s.Ready {
		answer, err := a.cri.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.ID})
		if err != nil {
			return nil, fmt.Errorf("ask for sandbox: %w", err)
		}
		if network := answer.Status.GetNetwork(); network.GetIp() != "" {
			s.IPs = []string{network.Ip}
			for _, ip := range network.AdditionalIps {
				s.IPs = append(s.IPs, ip.Ip)
			}
		}
	}
	there := map[string]bool{}
	for _, c := range containers.Containers {
		there[c.Id] = true
		if cached, ok := ended[c.Id]; ok {
			o.Containers = append(o.Containers, cached)
			continue
		}
		answer, err := a.cri.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for container: %w", err)
		}
		container := a.container(uid, c.PodSandboxId, answer.Status)
		if container.State == pod.Exited {
			ended[c.Id] = container
		}
		o.Containers = append(o.Containers, container)
	}
	for id := range ended {
		if !there[id] {
			delete(ended, id)
		}
	}
	slices.SortFunc(o.Containers, func(x, y pod.Container) int {
		return cmp.Or(y.CreatedAt.Compare(x.CreatedAt), cmp.Compare(y.Attempt, x.Attempt))
	})
	return o, nil
}

func (a *Agent) container(uid, sandbox string, s *runtimeapi.ContainerStatus) pod.Container {
	c := pod.Container{
		ID: s.Id, SandboxID: sandbox, Name: s.Metadata.Name, Image: s.Image.GetImage(), ImageID: s.ImageRef,
		Hash: s.Annotations[annotationHash], CreatedAt: time.Unix(0, s.CreatedAt), ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
	}
	if n, err := strconv.ParseInt(s.Annotations[annotationRestartCount], 10, 32); err == nil {
		c.Attempt = int32(n)
	}
	if s.StartedAt > 0 {
		c.StartedAt = time.Unix(0, s.StartedAt)
	}
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		c.State = pod.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		c.State = pod.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		c.State, c.FinishedAt = pod.Exited, time.Unix(0, s.FinishedAt)
		if message := a.terminationMessage(uid, &c, s); message != "" {
			c.Message = message
		}
	default:
		c.State = pod.Unknown
	}
	return c
}

// Limits of termination messages, in bytes, and of what is taken from the log instead.
const (
	maxMessageFile = 4096
	maxMessageLog  = 2048
	maxMessageLine = 80
)

// terminationMessage reads what a container left as its last words.
func (a *Agent) terminationMessage(uid string, c *pod.Container, s *runtimeapi.ContainerStatus) string {
	if s.Annotations[annotationMessagePath] == "" {
		return ""
	}
	message := tail(a.messagePath(uid, c.Name, c.Attempt), maxMessageFile, false)
	if message == "" && c.ExitCode != 0 && s.Annotations[annotationMessageKind] == string(corev1.TerminationMessageFallbackToLogsOnError) && s.LogPath != "" {
		// Each line of a log has a time, a stream and a tag before its text.
		var text []string
		lines := strings.SplitAfter(tail(s.LogPath, 4*maxMessageLog, true), "\n")
		for _, line := range lines {
			if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
				text = append(text, parts[3])
			}
		}
		message = strings.Join(text[max(0, len(text)-maxMessageLine):], "")
		message = message[max(0, len(message)-maxMessageLog):]
	}
	return message
}

// tail reads at most limit bytes of a file, from its start or end.
func tail(path string, limit int64, end bool) string {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	} else if end && info.Size() > limit {
		if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
			return ""
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(raw), "")
}
