// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// burst bounds what one run creates or deletes.
const burst = 500

// Action is what is to be done.
type Action struct {
	Create int
	Delete []*corev1.Pod
}

// active tells whether a pod counts: it has not ended and is not being deleted.
func active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil
}

// Plan decides how to come to spec.replicas from the pods that there are.
func Plan(set *appsv1.ReplicaSet, pods []*corev1.Pod) Action {
	var live []*corev1.Pod
	for _, p := range pods {
		if active(p) {
			live = append(live, p)
		}
	}
	want := int(*set.Spec.Replicas)
	switch diff := want - len(live); {
	case diff > 0:
		return Action{Create: min(diff, burst)}
	case diff < 0:
		return Action{Delete: victims(live, min(-diff, burst))}
	}
	return Action{}
}

// victims picks n pods, those first whose loss matters least.
func victims(pods []*corev1.Pod, n int) []*corev1.Pod {
	if n >= len(pods) {
		return pods
	}
	onNode := map[string]int{}
	for _, p := range pods {
		onNode[p.Spec.NodeName]++
	}
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			compareBool(ready(a), ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			-cmp.Compare(onNode[a.Spec.NodeName], onNode[b.Spec.NodeName]),
			-readySince(a).Compare(readySince(b)),
			-cmp.Compare(restarts(a), restarts(b)),
			-a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		)
	})
	return sorted[:n]
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	return map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}[p.Status.Phase]
}

func condition(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func ready(p *corev1.Pod) bool {
	c := condition(p)
	return c != nil && c.Status == corev1.ConditionTrue
}

func readySince(p *corev1.Pod) time.Time {
	if c := condition(p); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func deletionCost(p *corev1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func restarts(p *corev1.Pod) (n int32) {
	for _, s := range p.Status.ContainerStatuses {
		n = max(n, s.RestartCount)
	}
	return n
}

// Status is what the set's status should be, and when time alone will change it (0: never).
func Status(set *appsv1.ReplicaSet, pods []*corev1.Pod, failure error, now time.Time) (appsv1.ReplicaSetStatus, time.Duration) {
	s := appsv1.ReplicaSetStatus{ObservedGeneration: set.Generation, Conditions: slices.Clone(set.Status.Conditions)}
	template := labels.Set(set.Spec.Template.Labels).AsSelectorPreValidated()
	minReady := time.Duration(set.Spec.MinReadySeconds) * time.Second
	var again time.Duration
	var terminating int32
	for _, p := range pods {
		if p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			terminating++
		}
		if !active(p) {
			continue
		}
		s.Replicas++
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeledReplicas++
		}
		if !ready(p) {
			continue
		}
		s.ReadyReplicas++
		left := minReady - now.Sub(readySince(p))
		if minReady == 0 || left <= 0 {
			s.AvailableReplicas++
		} else if again == 0 || left < again {
			again = left
		}
	}
	s.TerminatingReplicas = &terminating
	s.Conditions = failureCondition(s.Conditions, failure, now)
	return s, again
}

// failureCondition says whether the last creation or deletion failed.
func failureCondition(conditions []appsv1.ReplicaSetCondition, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	is := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if failure == nil {
		return slices.DeleteFunc(conditions, is)
	}
	if slices.ContainsFunc(conditions, is) {
		return conditions
	}
	return append(conditions, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
		Message: failure.Error(), LastTransitionTime: metav1.NewTime(now),
	})
}
