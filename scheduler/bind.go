// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/client"
	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

const failedScheduling = "FailedScheduling"

// bind writes where the pod goes. If that fails, the pod is no longer counted there and gets another try.
func (s *Scheduler) bind(ctx context.Context, e *entry, pod *snapshot.Pod, node string) {
	_, err := s.pods.CreateSub(ctx, client.KeyOf(pod), "binding", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	})
	if err == nil {
		now := time.Now()
		s.metrics.scheduled(now.Sub(e.tried), now.Sub(e.since), e.attempts)
		s.nominated.remove(pod.UID)
		s.queue.done(e)
		s.events.record(pod.Pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding",
			fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node))
		s.log.Debug("bound pod", "pod", client.KeyOf(pod), "node", node)
		return
	}
	s.metrics.attempt(resultError, time.Since(e.tried))
	s.state.Forget(pod.UID)
	s.queue.happened(plugins.PodRemoved, time.Now())
	if ctx.Err() != nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		s.queue.retry(e, time.Now()) // an event is about to tell that the pod went, or got a node from another
		return
	}
	s.log.Warn("bind pod", "pod", client.KeyOf(pod), "node", node, "err", err)
	s.refuse(ctx, e, pod, refusal{reason: corev1.PodReasonSchedulerError, message: "binding rejected: " + err.Error()})
}

// refusal is what becomes of a pod that got no node.
type refusal struct {
	reason, message string
	nominated       string
	helps           plugins.Event // none after an error
	preempt         *candidate
}

// refuse tells the world, makes room if there is a way, and puts the pod back into the queue.
func (s *Scheduler) refuse(ctx context.Context, e *entry, pod *snapshot.Pod, r refusal) {
	s.events.record(pod.Pod, nil, corev1.EventTypeWarning, failedScheduling, "Scheduling", r.message)
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: r.reason, Message: r.message, ObservedGeneration: pod.Generation,
	}
	// The nomination is written before victims go, so that whoever looks knows what the room is for.
	err := s.patch(ctx, pod.Pod, condition, &r.nominated)
	if err == nil && r.preempt != nil {
		err = s.evict(ctx, pod, r.preempt)
	}
	now := time.Now()
	switch {
	case err != nil:
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			s.log.Warn("refuse pod", "pod", client.KeyOf(pod), "err", err)
		}
		if r.preempt != nil {
			s.nominated.remove(pod.UID)
		}
		s.queue.retry(e, now)
	case r.helps == 0:
		s.queue.retry(e, now)
	default:
		s.queue.park(e, r.helps, now)
	}
}

// patch writes a condition of a pod, and the nominated node unless nil, if they are not so already.
func (s *Scheduler) patch(ctx context.Context, p *corev1.Pod, c corev1.PodCondition, nominated *string) error {
	c.LastTransitionTime = metav1.Now()
	told := false
	for i := range p.Status.Conditions {
		old := &p.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		told = old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message && old.ObservedGeneration == c.ObservedGeneration
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	if told && (nominated == nil || *nominated == p.Status.NominatedNodeName) {
		return nil
	}
	status := map[string]any{"conditions": []corev1.PodCondition{c}}
	if nominated != nil && *nominated != p.Status.NominatedNodeName {
		status["nominatedNodeName"] = *nominated
		if *nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status of pod %s: %w", client.KeyOf(p), err)
	}
	if _, err = s.pods.Patch(ctx, client.KeyOf(p), types.StrategicMergePatchType, body, "status"); err != nil {
		return fmt.Errorf("patch status of pod %s: %w", client.KeyOf(p), err)
	}
	return nil
}

// evict deletes the victims, the least important first, after telling them why.
func (s *Scheduler) evict(ctx context.Context, pod *snapshot.Pod, c *candidate) error {
	s.log.Info("preempting", "pod", client.KeyOf(pod), "node", c.node.Name, "victims", len(c.victims))
	for i := len(c.victims) - 1; i >= 0; i-- {
		victim := c.victims[i]
		if victim.DeletionTimestamp != nil {
			continue
		}
		err := s.patch(ctx, victim.Pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: s.cfg.Name + ": preempting to accommodate a higher priority pod", ObservedGeneration: victim.Generation,
		}, nil)
		if err == nil {
			err = s.pods.Delete(ctx, client.KeyOf(victim), metav1.NewPreconditionDeleteOptions(string(victim.UID)))
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			continue // it went by itself
		}
		if err != nil {
			return fmt.Errorf("preempt pod %s: %w", client.KeyOf(victim), err)
		}
		s.events.record(victim.Pod, pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting",
			fmt.Sprintf("Preempted by pod %s on node %s", pod.UID, c.node.Name))
	}
	none := ""
	for _, p := range s.nominated.below(pod, c.node.Name) { // they may find room elsewhere, at the latest when they are tried next
		s.nominated.remove(p.UID)
		if err := s.clear(ctx, p.Pod, &none); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// clear takes a nomination back.
func (s *Scheduler) clear(ctx context.Context, p *corev1.Pod, none *string) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return s.patch(ctx, p, c, none)
		}
	}
	return nil
}
