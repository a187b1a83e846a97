// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(ready corev1.ConditionStatus) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	return n
}

func TestTaints(t *testing.T) {
	cordoned := node(corev1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	for _, test := range []struct {
		node *corev1.Node
		want string
	}{
		{node(corev1.ConditionTrue), ""},
		{node(corev1.ConditionFalse), "node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute "},
		{node(corev1.ConditionUnknown), "node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute "},
		{&corev1.Node{}, "node.kubernetes.io/not-ready:NoSchedule "},
		{cordoned, "node.kubernetes.io/unschedulable:NoSchedule "},
	} {
		got := ""
		for _, taint := range Taints(test.node) {
			got += fmt.Sprintf("%s:%s ", taint.Key, taint.Effect)
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestTolerated(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	taints := []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: now.Add(-100 * time.Second)}}}
	seconds := int64(300)
	for _, test := range []struct {
		name        string
		tolerations []corev1.Toleration
		left        time.Duration
		evicts      bool
	}{
		{"none", nil, 0, true},
		{"for ever", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 0, false},
		{"for a while", []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists, TolerationSeconds: &seconds}}, 200 * time.Second, true},
		{"another", []corev1.Toleration{{Key: "x", Operator: corev1.TolerationOpExists}}, 0, true},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: test.tolerations}}
		if left, evicts := Tolerated(p, taints, now); left != test.left || evicts != test.evicts {
			t.Errorf("%s: got %v, %v", test.name, left, evicts)
		}
	}
}

func TestSilence(t *testing.T) {
	r := &reconciler{heard: map[string]heard{}}
	now := time.Unix(1_700_000_000, 0)
	n := node(corev1.ConditionTrue)
	if silent, left := r.silence(n, nil, now); silent || left != startupGrace {
		t.Errorf("at first: %v, %v", silent, left)
	}
	if silent, left := r.silence(n, nil, now.Add(30*time.Second)); silent || left != 20*time.Second {
		t.Errorf("after 30 s: %v, %v", silent, left)
	}
	if silent, _ := r.silence(n, nil, now.Add(time.Minute)); !silent {
		t.Error("after a minute it must be silent")
	}
	n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(now)
	if silent, _ := r.silence(n, nil, now.Add(time.Minute)); silent {
		t.Error("a heartbeat must end the silence")
	}
}
