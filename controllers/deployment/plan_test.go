// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func deployment(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas, Strategy: appsv1.DeploymentStrategy{
		Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
	}}}
}

func set(name string, replicas, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status: appsv1.ReplicaSetStatus{AvailableReplicas: available, Replicas: replicas},
	}
}

func text(sizes []Size) string {
	var all []string
	for _, s := range sizes {
		all = append(all, fmt.Sprintf("%s=%d", s.Set.Name, s.Replicas))
	}
	return strings.Join(all, " ")
}

func TestRoll(t *testing.T) {
	for _, test := range []struct {
		name        string
		replicas    int32
		surge, less string
		current     *appsv1.ReplicaSet
		old         []*appsv1.ReplicaSet
		want        string
	}{
		{"first rollout", 3, "25%", "25%", set("new", 3, 0), nil, ""},
		{"grow by the surge", 4, "1", "0", set("new", 0, 0), []*appsv1.ReplicaSet{set("old", 4, 4)}, "new=1"},
		{"wait for the new one", 4, "1", "0", set("new", 1, 0), []*appsv1.ReplicaSet{set("old", 4, 4)}, ""},
		{"shrink when it is there", 4, "1", "0", set("new", 1, 1), []*appsv1.ReplicaSet{set("old", 4, 4)}, "old=3"},
		{"unavailable ones go first", 4, "1", "1", set("new", 1, 0), []*appsv1.ReplicaSet{set("a", 2, 0), set("b", 2, 2)}, "a=1"},
		{"several at once", 10, "50%", "50%", set("new", 5, 5), []*appsv1.ReplicaSet{set("old", 10, 10)}, "old=0"},
		{"too large", 2, "1", "0", set("new", 5, 5), nil, "new=2"},
		{"never below the least", 3, "0", "1", set("new", 1, 0), []*appsv1.ReplicaSet{set("old", 2, 2)}, ""},
	} {
		if got := text(Roll(deployment(test.replicas, test.surge, test.less), test.current, test.old)); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestRollEnds(t *testing.T) {
	d := deployment(7, "25%", "25%")
	current, old := set("new", 0, 0), set("old", 7, 7)
	for range 50 {
		for _, s := range Roll(d, current, []*appsv1.ReplicaSet{old}) {
			s.Set.Spec.Replicas = &s.Replicas
			s.Set.Status.AvailableReplicas = s.Replicas
		}
		if sum := *current.Spec.Replicas + *old.Spec.Replicas; sum > 9 {
			t.Fatalf("%d pods, at most 9 allowed", sum)
		}
		if sum := current.Status.AvailableReplicas + old.Status.AvailableReplicas; sum < 6 {
			t.Fatalf("%d pods available, at least 6 wanted", sum)
		}
	}
	if *current.Spec.Replicas != 7 || *old.Spec.Replicas != 0 {
		t.Errorf("ended with %d new and %d old", *current.Spec.Replicas, *old.Spec.Replicas)
	}
}

func TestForgotten(t *testing.T) {
	d := deployment(1, "1", "0")
	limit := int32(1)
	d.Spec.RevisionHistoryLimit = &limit
	a, b, c := set("a", 0, 0), set("b", 0, 0), set("c", 0, 0)
	a.Annotations, b.Annotations, c.Annotations = map[string]string{revisionAnnotation: "3"}, map[string]string{revisionAnnotation: "1"}, map[string]string{revisionAnnotation: "2"}
	var names []string
	for _, s := range Forgotten(d, []*appsv1.ReplicaSet{a, b, c}) {
		names = append(names, s.Name)
	}
	if strings.Join(names, " ") != "b c" {
		t.Errorf("got %v", names)
	}
}

func TestProgressDeadline(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	d := deployment(1, "1", "0")
	deadline := int32(60)
	d.Spec.ProgressDeadlineSeconds = &deadline
	v := versions{current: set("new", 1, 0)}
	s, again := Status(d, v, now)
	if again == 0 || condition(&s, appsv1.DeploymentProgressing).Status != corev1.ConditionTrue {
		t.Fatalf("at first: %+v, again in %v", s.Conditions, again)
	}
	d.Status = s
	s, _ = Status(d, v, now.Add(2*time.Minute))
	if c := condition(&s, appsv1.DeploymentProgressing); c.Reason != "ProgressDeadlineExceeded" || c.Status != corev1.ConditionFalse {
		t.Errorf("late: %+v", c)
	}
	d.Status = s
	v.current.Status.AvailableReplicas, v.current.Status.ReadyReplicas = 1, 1
	s, _ = Status(d, v, now.Add(3*time.Minute))
	if c := condition(&s, appsv1.DeploymentProgressing); c.Reason == "ProgressDeadlineExceeded" {
		t.Errorf("after progress: %+v", c)
	}
}

func TestHashIsStable(t *testing.T) {
	a := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}
	one := int32(1)
	if Hash(a, nil) != Hash(a.DeepCopy(), nil) || Hash(a, nil) == Hash(a, &one) {
		t.Error("the hash must depend on the template and the collisions alone")
	}
}
