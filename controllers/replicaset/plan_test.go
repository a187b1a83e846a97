// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Unix(1_700_000_000, 0)

func pod(name, node string, phase corev1.PodPhase, readyFor time.Duration) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	p.Spec.NodeName, p.Status.Phase = node, phase
	if readyFor > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-readyFor)),
		}}
	}
	return p
}

func set(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
}

func TestPlan(t *testing.T) {
	deleting := pod("deleting", "n", corev1.PodRunning, time.Minute)
	deleting.DeletionTimestamp = &metav1.Time{Time: now}
	cheap := pod("cheap", "n1", corev1.PodRunning, time.Minute)
	cheap.Annotations = map[string]string{corev1.PodDeletionCost: "-1"}
	all := []*corev1.Pod{
		pod("good", "n1", corev1.PodRunning, time.Minute),
		pod("unready", "n1", corev1.PodRunning, 0),
		pod("pending", "n1", corev1.PodPending, 0),
		pod("unassigned", "", corev1.PodPending, 0),
		pod("failed", "n1", corev1.PodFailed, 0),
		deleting, cheap,
	}
	for _, test := range []struct {
		replicas int32
		create   int
		delete   []string
	}{
		{7, 2, nil},
		{5, 0, nil},
		{4, 0, []string{"unassigned"}},
		{1, 0, []string{"unassigned", "pending", "unready", "cheap"}},
		{1000, 500, nil},
	} {
		got := Plan(set(test.replicas), all)
		var names []string
		for _, p := range got.Delete {
			names = append(names, p.Name)
		}
		if got.Create != test.create || !slices.Equal(names, test.delete) {
			t.Errorf("%d replicas: create %d, delete %v; want %d, %v", test.replicas, got.Create, names, test.create, test.delete)
		}
	}
}

func TestStatusWaitsForMinReady(t *testing.T) {
	s := set(2)
	s.Spec.MinReadySeconds = 30
	got, again := Status(s, []*corev1.Pod{
		pod("old", "n", corev1.PodRunning, time.Minute), pod("new", "n", corev1.PodRunning, 10*time.Second),
	}, nil, now)
	if got.Replicas != 2 || got.ReadyReplicas != 2 || got.AvailableReplicas != 1 || again != 20*time.Second {
		t.Errorf("got %+v, again in %v", got, again)
	}
}
