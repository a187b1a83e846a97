// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/node/pod"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// walk lets a pod live to the times given and tells what its status is at each.
func walk(t *testing.T, p *corev1.Pod, delays Delays, change func(p *corev1.Pod, after time.Duration), times ...time.Duration) string {
	t.Helper()
	n := &machine{Node: Node{Name: "n", IP: netip.MustParseAddr("10.44.1.0")}, addresses: newAddresses(netip.MustParsePrefix("10.42.1.0/24"))}
	s := adopt(p, n, start)
	var told []string
	for _, after := range times {
		if change != nil {
			change(p, after)
		}
		s.pod, s.now, s.lookAgain = p, start.Add(after), 0
		s.settings, s.problem = settingsOf(p, delays)
		stopped, err := s.advance()
		if err != nil {
			t.Fatal(err)
		}
		p.Status = pod.Status(p, &s.observed, s.memory, []string{"10.44.1.0"}, stopped, s.now)
		told = append(told, fmt.Sprintf("%s: %s%s", after, describe(p), next(s, stopped)))
	}
	return strings.Join(told, "\n")
}

func next(s *simulation, stopped bool) string {
	if stopped {
		return ", stopped"
	}
	if s.lookAgain > 0 {
		return fmt.Sprintf(", again in %s", s.lookAgain)
	}
	return ""
}

func describe(p *corev1.Pod) string {
	text := []string{string(p.Status.Phase)}
	if p.Status.PodIP != "" {
		text = append(text, p.Status.PodIP)
	}
	for _, cs := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		state := "waiting"
		switch {
		case cs.State.Waiting != nil:
			state = cs.State.Waiting.Reason
		case cs.State.Running != nil:
			state = "running"
		case cs.State.Terminated != nil:
			state = fmt.Sprintf("%s(%d)", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
		}
		if cs.RestartCount > 0 {
			state += fmt.Sprintf("*%d", cs.RestartCount)
		}
		text = append(text, cs.Name+"="+state)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			text = append(text, "ready")
		}
	}
	return strings.Join(text, " ")
}

func testPod(policy corev1.RestartPolicy, annotations map[string]string, init ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u", Annotations: annotations},
		Spec:       corev1.PodSpec{NodeName: "n", RestartPolicy: policy, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, name := range init {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, Image: "i"})
	}
	return p
}

func TestLife(t *testing.T) {
	deleteAt := func(at time.Duration, grace int64) func(*corev1.Pod, time.Duration) {
		return func(p *corev1.Pod, after time.Duration) {
			if after == at {
				p.DeletionTimestamp = &metav1.Time{Time: start.Add(at + time.Duration(grace)*time.Second)}
				p.DeletionGracePeriodSeconds = ptr.To(grace)
			}
		}
	}
	for _, test := range []struct {
		name   string
		pod    *corev1.Pod
		delays Delays
		change func(*corev1.Pod, time.Duration)
		times  []time.Duration
		want   string
	}{
		{"at once", testPod(corev1.RestartPolicyAlways, nil), Delays{}, nil, []time.Duration{0}, "0s: Running 10.42.1.2 c=running ready"},
		{
			"init containers and delays", testPod(corev1.RestartPolicyAlways, nil, "a", "b"),
			Delays{Create: time.Second, Start: 2 * time.Second, Ready: 4 * time.Second}, nil,
			[]time.Duration{0, time.Second, 3 * time.Second, 5 * time.Second, 7 * time.Second}, `
0s: Pending a=PodInitializing b=PodInitializing c=PodInitializing, again in 1s
1s: Pending 10.42.1.2 a=PodInitializing b=PodInitializing c=PodInitializing, again in 2s
3s: Pending 10.42.1.2 a=Completed(0) b=PodInitializing c=PodInitializing, again in 2s
5s: Pending 10.42.1.2 a=Completed(0) b=Completed(0) c=ContainerCreating, again in 2s
7s: Running 10.42.1.2 a=Completed(0) b=Completed(0) c=running ready, again in 4s`,
		},
		{
			"a run that succeeds", testPod(corev1.RestartPolicyNever, map[string]string{Run: "5s"}), Delays{}, nil,
			[]time.Duration{0, 5 * time.Second}, `
0s: Running 10.42.1.2 c=running ready, again in 5s
5s: Succeeded 10.42.1.2 c=Completed(0), stopped`,
		},
		{
			"a run that fails", testPod(corev1.RestartPolicyNever, map[string]string{ExitCode: "3"}), Delays{}, nil,
			[]time.Duration{0}, "0s: Failed 10.42.1.2 c=Error(3), stopped",
		},
		{
			"restarts back off", testPod(corev1.RestartPolicyOnFailure, map[string]string{Run: "1s", ExitCode: "1"}), Delays{}, nil,
			[]time.Duration{0, time.Second, 2 * time.Second, 12 * time.Second}, `
0s: Running 10.42.1.2 c=running ready, again in 1s
1s: Running 10.42.1.2 c=running*1 ready, again in 1s
2s: Running 10.42.1.2 c=CrashLoopBackOff*1, again in 10s
12s: Running 10.42.1.2 c=running*2 ready, again in 1s`,
		},
		{
			"an init container that fails", testPod(corev1.RestartPolicyNever, map[string]string{ContainerExitCode + "a": "7"}, "a"), Delays{}, nil,
			[]time.Duration{0}, "0s: Failed 10.42.1.2 a=Error(7) c=PodInitializing, stopped",
		},
		{
			"graceful deletion", testPod(corev1.RestartPolicyAlways, map[string]string{Stop: "10s"}), Delays{}, deleteAt(time.Second, 30),
			[]time.Duration{0, time.Second, 11 * time.Second}, `
0s: Running 10.42.1.2 c=running ready
1s: Running 10.42.1.2 c=running ready, again in 10s
11s: Failed 10.42.1.2 c=Error(143), stopped`,
		},
		{
			"a container that does not stop is killed", testPod(corev1.RestartPolicyAlways, map[string]string{Stop: "1h"}), Delays{}, deleteAt(time.Second, 30),
			[]time.Duration{0, time.Second, 31 * time.Second}, `
0s: Running 10.42.1.2 c=running ready
1s: Running 10.42.1.2 c=running ready, again in 30s
31s: Failed 10.42.1.2 c=Error(137), stopped`,
		},
		{
			"an annotation that is none", testPod(corev1.RestartPolicyAlways, map[string]string{Run: "soon"}), Delays{}, nil,
			[]time.Duration{0}, "0s: Pending 10.42.1.2 c=CreateContainerConfigError",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, want := walk(t, test.pod, test.delays, test.change, test.times...), strings.TrimSpace(test.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAdopt(t *testing.T) {
	p := testPod(corev1.RestartPolicyAlways, nil, "a")
	if got, want := walk(t, p, Delays{}, nil, 0), "0s: Running 10.42.1.2 a=Completed(0) c=running ready"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	before := p.DeepCopy()
	walk(t, p, Delays{}, nil, time.Hour)
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		t.Errorf("an adopted pod changed:\n%v\n%v", before.Status, p.Status)
	}
}

func TestAddresses(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("10.42.1.0/29"))
	a.take("10.42.1.3", "other")
	var got []string
	for i := range 5 {
		ip, err := a.give(types.UID(fmt.Sprint(i)))
		if err != nil {
			ip = err.Error()
		}
		got = append(got, ip)
	}
	a.free("other")
	a.free("0")
	for _, uid := range []types.UID{"1", "5", "6"} {
		ip, err := a.give(uid)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ip)
	}
	want := "[10.42.1.2 10.42.1.4 10.42.1.5 10.42.1.6 no address is free for the pod 10.42.1.4 10.42.1.2 10.42.1.3]"
	if fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
