// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package endpointslice

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"},
		Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
			{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")},
		}},
	}
}

func pods(n int) []*corev1.Pod {
	var all []*corev1.Pod
	for i := range n {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%03d", i), Namespace: "ns", UID: types.UID(fmt.Sprint(i))}}
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}}
		p.Status = corev1.PodStatus{PodIP: fmt.Sprintf("10.42.%d.%d", i/250, i%250), Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
		all = append(all, p)
	}
	return all
}

func TestPlanFillsSlices(t *testing.T) {
	s, all := service(), pods(250)
	a := Plan(s, all, nil, nil)
	if len(a.Create) != 3 || len(a.Create[0].Endpoints) != 100 || len(a.Create[2].Endpoints) != 50 || *a.Create[0].Ports[0].Port != 8080 {
		t.Fatalf("create %d slices", len(a.Create))
	}
	again := Plan(s, all, nil, a.Create)
	if len(again.Create)+len(again.Update)+len(again.Delete) != 0 {
		t.Errorf("a second plan changes something: %+v", again)
	}
	fewer := Plan(s, all[:99], nil, a.Create)
	if len(fewer.Update) != 1 || len(fewer.Delete) != 2 {
		t.Errorf("fewer pods: %d updates, %d deletions", len(fewer.Update), len(fewer.Delete))
	}
	more := Plan(s, pods(260), nil, a.Create)
	if len(more.Update) != 1 || len(more.Create) != 0 || len(more.Update[0].Endpoints) != 60 {
		t.Errorf("more pods: %+v", more)
	}
}

func TestConditions(t *testing.T) {
	s, all := service(), pods(3)
	all[1].Status.Conditions = nil
	all[2].DeletionTimestamp = &metav1.Time{}
	e := Plan(s, all, map[string]string{}, nil).Create[0].Endpoints
	for i, want := range []string{"true true false", "false false false", "false true true"} {
		c := e[i].Conditions
		if got := fmt.Sprint(*c.Ready, " ", *c.Serving, " ", *c.Terminating); got != want {
			t.Errorf("pod %d: ready, serving, terminating %s, want %s", i, got, want)
		}
	}
	s.Spec.PublishNotReadyAddresses = true
	if e := Plan(s, all, nil, nil).Create[0].Endpoints; !*e[1].Conditions.Ready {
		t.Error("publishNotReadyAddresses must make all ready")
	}
}

func TestNoPods(t *testing.T) {
	a := Plan(service(), nil, nil, nil)
	if len(a.Create) != 1 || len(a.Create[0].Endpoints) != 0 || a.Create[0].Labels[discoveryv1.LabelServiceName] != "web" {
		t.Errorf("got %+v", a)
	}
	if again := Plan(service(), nil, nil, a.Create); len(again.Create)+len(again.Update)+len(again.Delete) != 0 {
		t.Errorf("a second plan changes something: %+v", again)
	}
}
