// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/node/cgroup"
	"knarr.dev/node/pod"
)

func podGroup(class corev1.PodQOSClass, uid string) string { return cgroup.Path(class, types.UID(uid)) }

// admit says why the node does not take a pod that is bound to it: the scheduler may not have been asked, or may have
// known less. The caller holds the lock.
func (a *Agent) admit(p *corev1.Pod) *pod.Waiting {
	reject := func(reason, message string) *pod.Waiting {
		a.event(p, "", corev1.EventTypeWarning, reason, message)
		return &pod.Waiting{Reason: reason, Message: "Pod was rejected: " + message}
	}
	if a.node != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(a.node); err == nil && !ok {
			return reject("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
		}
	}
	used, count := corev1.ResourceList{}, int64(0)
	for _, w := range a.workers {
		w.mu.Lock()
		other := w.latest
		w.mu.Unlock()
		if pod.Terminal(other.Status.Phase) {
			continue
		}
		count++
		for name, quantity := range podresource.PodRequests(other, podresource.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(quantity)
			used[name] = sum
		}
	}
	short := func(name corev1.ResourceName, requested, used, capacity int64) *pod.Waiting {
		return reject("OutOf"+string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity))
	}
	if count+1 > int64(a.config.MaxPods) {
		return short(corev1.ResourcePods, 1, count, int64(a.config.MaxPods))
	}
	for name, quantity := range podresource.PodRequests(p, podresource.PodResourcesOptions{}) {
		total, known := a.allocatable[name]
		before := used[name]
		sum := quantity.DeepCopy()
		sum.Add(before)
		if quantity.IsZero() || known && sum.Cmp(total) <= 0 {
			continue
		}
		if name == corev1.ResourceCPU {
			return short(name, quantity.MilliValue(), before.MilliValue(), total.MilliValue())
		}
		return short(name, quantity.Value(), before.Value(), total.Value())
	}
	return nil
}
