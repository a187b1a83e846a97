// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// subscribe lets the state and the queue follow the cluster. The channel gets an element for each kind that is
// complete; its capacity is how many there are. A subscription that breaks cancels with the reason.
func (s *Scheduler) subscribe(ctx context.Context, cancel context.CancelCauseFunc, group *sync.WaitGroup) (chan struct{}, error) {
	synced := make(chan struct{}, 3)
	f := follower{cancel: cancel, group: group, synced: synced}
	if err := follow(ctx, f, s.client, core.Nodes, s.nodeChanged); err != nil {
		return nil, err
	}
	if err := follow(ctx, f, s.client, core.Namespaces, s.namespaceChanged); err != nil {
		return nil, err
	}
	return synced, follow(ctx, f, s.client, core.Pods, s.podChanged)
}

type follower struct {
	cancel context.CancelCauseFunc
	group  *sync.WaitGroup
	synced chan struct{}
}

func follow[T any](ctx context.Context, f follower, c *client.Client, kind *resource.Type[T], changed func(obj, old *T)) error {
	view, err := client.Of(c, kind).View(ctx, client.ListOptions{})
	if err != nil {
		return fmt.Errorf("view %s: %w", kind.Resource, err)
	}
	f.group.Go(func() {
		if err := view.Subscribe(ctx, changed, func() { f.synced <- struct{}{} }); err != nil && ctx.Err() == nil {
			f.cancel(fmt.Errorf("follow %s: %w", kind.Resource, err))
		}
	})
	return nil
}

func (s *Scheduler) nodeChanged(n, old *corev1.Node) {
	switch {
	case n == nil:
		s.state.RemoveNode(old.Name)
		s.queue.happened(plugins.NodeRemoved, time.Now())
	case old == nil:
		s.state.SetNode(n)
		s.queue.happened(plugins.NodeAdded, time.Now())
	default:
		s.state.SetNode(n)
		if event := nodeEvent(n, old); event != 0 {
			s.queue.happened(event, time.Now())
		}
	}
}

// nodeEvent tells in what a node changed.
func nodeEvent(n, old *corev1.Node) (event plugins.Event) {
	if !apiequality.Semantic.DeepEqual(n.Status.Allocatable, old.Status.Allocatable) {
		event |= plugins.NodeRoom
	}
	if !maps.Equal(n.Labels, old.Labels) {
		event |= plugins.NodeLabels
	}
	if n.Spec.Unschedulable != old.Spec.Unschedulable || !apiequality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) {
		event |= plugins.NodeTaints
	}
	if !slices.Equal(n.Status.DeclaredFeatures, old.Status.DeclaredFeatures) {
		event |= plugins.NodeFeatures
	}
	return event
}

func (s *Scheduler) namespaceChanged(n, old *corev1.Namespace) {
	if n == nil {
		s.state.RemoveNamespace(old.Name)
		return
	}
	if old != nil && maps.Equal(n.Labels, old.Labels) {
		return
	}
	s.state.SetNamespace(n.Name, labels.Set(n.Labels))
	s.queue.happened(plugins.NamespaceChanged, time.Now())
}

func (s *Scheduler) podChanged(p, old *corev1.Pod) {
	if old != nil && (p == nil || p.UID != old.UID) {
		s.forget(old)
	}
	switch {
	case p == nil:
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		s.forget(p)
	case p.Spec.NodeName != "":
		s.placed(p)
	case p.Spec.SchedulerName != s.cfg.Name:
	case p.DeletionTimestamp != nil:
		s.forget(p)
	default:
		s.pending(p)
	}
}

// forget drops a pod that ended or is no more.
func (s *Scheduler) forget(p *corev1.Pod) {
	s.queue.remove(p.UID)
	kept := s.nominated.remove(p.UID) // room that others may have now
	if s.state.RemovePod(p.UID) || kept {
		s.queue.happened(plugins.PodRemoved, time.Now())
	}
}

// placed counts a pod on its node.
func (s *Scheduler) placed(p *corev1.Pod) {
	s.queue.remove(p.UID)
	s.nominated.remove(p.UID)
	switch placed, changed := s.state.SetPod(p); {
	case placed:
		s.queue.happened(plugins.PodPlaced, time.Now())
	case changed:
		s.queue.happened(plugins.PodChanged, time.Now())
	}
}

// pending takes note of a pod without a node. That gates hold it back is told by the server, in its condition.
func (s *Scheduler) pending(p *corev1.Pod) {
	s.queue.set(p, time.Now())
	if p.Status.NominatedNodeName != "" && s.nominated.node(p.UID) == "" {
		s.nominated.set(snapshot.NewPod(p), p.Status.NominatedNodeName)
	}
}
