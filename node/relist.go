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
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/netns"
	"knarr.dev/node/volume"
)

// relistEvery is how often the runtime is asked for all containers, where it does not tell of changes.
const relistEvery = time.Second

// relist wakes the workers of pods whose containers changed by themselves, and ends what belongs to no pod.
func (a *Agent) relist(ctx context.Context, synced <-chan struct{}) {
	ticker := time.NewTicker(relistEvery)
	defer ticker.Stop()
	known := map[string]string{}
	swept := false
	for {
		if states, err := a.states(ctx); err == nil {
			a.wakeChanged(known, states)
			known = states
			select {
			case <-synced:
				a.adoptOrphans(ctx, states)
				if !swept {
					swept = true
					a.sweep(states)
				}
			default:
			}
		} else if ctx.Err() == nil {
			a.log.Warn("cannot list containers", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// follow wakes workers by the runtime's events, where it has them: containerd 2 and CRI-O do, containerd 1 does not.
func (a *Agent) follow(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := a.cri.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		for err == nil {
			var event *runtimeapi.ContainerEventResponse
			if event, err = stream.Recv(); err != nil {
				break
			}
			a.mu.Lock()
			if w := a.workers[event.GetPodSandboxStatus().GetMetadata().GetUid()]; w != nil {
				w.kick()
			}
			a.mu.Unlock()
		}
		if status.Code(err) == codes.Unimplemented {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

// states returns a text for each pod UID that changes whenever one of its sandboxes or containers does.
func (a *Agent) states(ctx context.Context) (map[string]string, error) {
	sandboxes, err := a.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := a.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	lists := map[string][]string{}
	for _, s := range sandboxes.Items {
		uid := s.Labels[labelPodUID]
		lists[uid] = append(lists[uid], s.Id+s.State.String())
	}
	for _, c := range containers.Containers {
		uid := c.Labels[labelPodUID]
		lists[uid] = append(lists[uid], c.Id+c.State.String())
	}
	delete(lists, "")
	states := make(map[string]string, len(lists))
	for uid, list := range lists {
		slices.Sort(list)
		states[uid] = fmt.Sprint(list)
	}
	return states, nil
}

func (a *Agent) wakeChanged(old, current map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, w := range a.workers {
		if old[uid] != current[uid] {
			w.kick()
		}
	}
}

// adoptOrphans gives workers to pods that the runtime has and the API has not: they end them.
func (a *Agent) adoptOrphans(ctx context.Context, states map[string]string) {
	for uid := range states {
		a.mu.Lock()
		missing := a.workers[uid] == nil
		a.mu.Unlock()
		if !missing {
			continue
		}
		p, err := a.podFromRuntime(ctx, uid)
		if err != nil || p == nil {
			continue
		}
		a.mu.Lock()
		if a.workers[uid] == nil && !a.closed {
			a.log.Info("ending a pod that the API does not have", "pod", p.Namespace+"/"+p.Name)
			w := newWorker(a, p)
			w.gone = true
			a.startWorker(ctx, w)
		}
		a.mu.Unlock()
	}
}

// podFromRuntime makes a deleted pod from what the runtime knows of it; nil if it knows nothing.
func (a *Agent) podFromRuntime(ctx context.Context, uid string) (*corev1.Pod, error) {
	filter := map[string]string{labelPodUID: uid}
	sandboxes, err := a.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: filter}})
	if err != nil || len(sandboxes.Items) == 0 {
		return nil, err
	}
	containers, err := a.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: filter}})
	if err != nil {
		return nil, err
	}
	m := sandboxes.Items[0].Metadata
	grace := int64(0)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: types.UID(uid)}}
	for _, c := range containers.Containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c.Metadata.Name})
		if s, err := strconv.ParseInt(c.Annotations[annotationGrace], 10, 64); err == nil {
			grace = max(grace, s)
		}
	}
	p.DeletionTimestamp = &metav1.Time{Time: a.now().Add(time.Duration(grace) * time.Second)}
	p.DeletionGracePeriodSeconds = &grace
	return p, nil
}

// sweep removes directories of pods that neither the API nor the runtime has.
func (a *Agent) sweep(states map[string]string) {
	entries, err := os.ReadDir(a.volumes.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		a.mu.Lock()
		w := a.workers[e.Name()]
		a.mu.Unlock()
		if _, running := states[e.Name()]; running || w != nil {
			continue
		}
		if err := volume.Remove(filepath.Join(a.volumes.Dir, e.Name())); err != nil {
			a.log.Warn("cannot remove what a pod left", "uid", e.Name(), "error", err)
		}
	}
}

// How long containers may take when the agent stops, and all of it.
const (
	stopGraceSeconds = 3
	stopTimeout      = 30 * time.Second
)

// stopPods ends all pods of the runtime, when the agent stops for good.
func (a *Agent) stopPods(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	sandboxes, err := a.cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		a.log.Warn("cannot list pods to stop", "error", err)
		return
	}
	containers, err := a.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		a.log.Warn("cannot list containers to stop", "error", err)
		return
	}
	var wait sync.WaitGroup
	limit := make(chan struct{}, 16)
	for _, s := range sandboxes.Items {
		if s.Labels[labelPodUID] == "" {
			continue
		}
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			a.stopPod(ctx, s, containers.Containers)
		})
	}
	wait.Wait()
}

// removeBridge removes the bridge that the agent's own runtime made for pods.
func (a *Agent) removeBridge() error {
	if a.config.ContainerdSocket != "" {
		return nil
	}
	return netns.Do(a.config.NetNS, func() error {
		link, err := netlink.LinkByName(a.config.Bridge)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
}

func (a *Agent) stopPod(ctx context.Context, s *runtimeapi.PodSandbox, containers []*runtimeapi.Container) {
	var wait sync.WaitGroup
	for _, c := range containers {
		if c.PodSandboxId == s.Id && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			wait.Go(func() {
				if _, err := a.cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: stopGraceSeconds}); err != nil {
					a.log.Warn("cannot stop container", "container", c.Metadata.Name, "error", err)
				}
			})
		}
	}
	wait.Wait()
	if _, err := a.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
		a.log.Warn("cannot stop pod", "pod", s.Metadata.Namespace+"/"+s.Metadata.Name, "error", err)
		return
	}
	if _, err := a.cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
		a.log.Warn("cannot remove pod", "pod", s.Metadata.Namespace+"/"+s.Metadata.Name, "error", err)
	}
	uid := s.Labels[labelPodUID]
	if err := volume.Remove(filepath.Join(a.volumes.Dir, uid)); err != nil {
		a.log.Warn("cannot remove the pod's volumes", "uid", uid, "error", err)
	}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		_ = a.cgroups.Remove(podGroup(class, uid)) // what is busy is found at the next start
	}
}
