// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// clock is a time that tests move, with a queue.
type clock struct {
	*queue
	t   *testing.T
	now time.Time
}

func newClock(t *testing.T) *clock {
	return &clock{newQueue(time.Second, 10*time.Second, 5*time.Minute), t, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

func (c *clock) add(p *corev1.Pod) { c.set(p, c.now) }

// popped takes out the next pod, which must be the one of that name; empty for none.
func (c *clock) popped(name string) *entry {
	c.t.Helper()
	e, pod, _ := c.pop(c.now)
	got := ""
	if e != nil {
		got = pod.Name
	}
	if got != name {
		c.t.Fatalf("popped %q, want %q", got, name)
	}
	return e
}

func (c *clock) sleep(d time.Duration) { c.now = c.now.Add(d) }

func TestQueueOrder(t *testing.T) {
	c := newClock(t)
	c.add(testPod("first", "1", "", 0))
	c.add(testPod("second", "1", "", 0))
	c.sleep(time.Second)
	c.add(testPod("high", "1", "", 10))
	for _, name := range []string{"high", "first", "second"} {
		c.done(c.popped(name))
	}
	c.popped("")
	if len(c.entries) != 0 || c.count(flying) != 0 {
		t.Errorf("%d left, counts %v", len(c.entries), c.counts)
	}
}

func TestQueueWaitsForEventsThatHelp(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 0))
	c.park(c.popped("p"), plugins.NodeAdded, c.now)
	c.happened(plugins.PodRemoved, c.now)
	c.popped("")
	c.happened(plugins.NodeAdded, c.now)
	e := c.popped("p") // there is nothing else to do, so that it does not wait for its backoff
	c.happened(plugins.NodeAdded, c.now)
	c.park(e, plugins.NodeAdded, c.now) // the event came while it was tried
	c.popped("p")
}

func TestQueueLetsOthersGoFirstDuringBackoff(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 10))
	c.park(c.popped("p"), plugins.NodeAdded, c.now)
	c.add(testPod("q", "1", "", 0))
	c.happened(plugins.NodeAdded, c.now)
	c.done(c.popped("q"))
	c.popped("p")
}

func TestQueueBacksOffAfterErrors(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 0))
	for _, wait := range []time.Duration{1, 2, 4, 8, 10, 10} {
		c.retry(c.popped("p"), c.now)
		c.sleep(wait*time.Second - 1)
		c.popped("")
		if _, _, left := c.pop(c.now); left != 1 {
			t.Errorf("pop says %v to wait, want 1ns", left)
		}
		c.sleep(1)
	}
	c.popped("p")
}

func TestQueueFlushes(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 0))
	c.park(c.popped("p"), plugins.NodeAdded, c.now)
	c.sleep(5*time.Minute - 1)
	c.flush(c.now)
	c.popped("")
	c.sleep(1)
	c.flush(c.now)
	c.popped("p")
}

func TestQueueGates(t *testing.T) {
	c := newClock(t)
	p := testPod("p", "1", "", 0)
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	c.add(p)
	c.happened(plugins.Anything, c.now)
	c.popped("")
	open := p.DeepCopy()
	open.Spec.SchedulingGates, open.Generation = nil, 2
	c.add(open)
	c.popped("p")
}

func TestQueueChanges(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 0))
	c.park(c.popped("p"), plugins.NodeAdded, c.now)
	told := testPod("p", "1", "", 0)
	told.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled}}
	c.add(told)
	c.popped("") // a status is no reason to try again
	changed := told.DeepCopy()
	changed.Generation, changed.Spec.Tolerations = 2, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	c.add(changed)
	e := c.popped("p")
	if len(e.pod.Spec.Tolerations) != 1 {
		t.Error("the old pod was kept")
	}
	again := changed.DeepCopy()
	again.Generation = 3
	again.Spec.Tolerations = nil
	c.add(again)
	c.park(e, plugins.NodeAdded, c.now) // it changed meanwhile
	c.popped("p")
}

func TestQueueForgets(t *testing.T) {
	c := newClock(t)
	p := testPod("p", "1", "", 0)
	c.add(p)
	c.remove(p.UID)
	c.popped("")
	c.add(p)
	e := c.popped("p")
	c.remove(p.UID)
	c.park(e, plugins.NodeAdded, c.now)
	c.happened(plugins.NodeAdded, c.now)
	c.popped("")
	c.add(p)
	e = c.popped("p")
	c.remove(p.UID)
	c.add(p) // another pod of that name, say
	c.done(e)
	c.popped("p")
	if len(c.flights) != 1 || c.count(flying) != 1 {
		t.Errorf("%d flights, counts %v", len(c.flights), c.counts)
	}
}

func TestQueueQuiet(t *testing.T) {
	c := newClock(t)
	c.add(testPod("p", "1", "", 0))
	before := c.popped("p").moment
	c.happened(plugins.NodeTaints|plugins.NodeRoom, c.now)
	for event, want := range map[plugins.Event]bool{plugins.NodeAdded | plugins.PodRemoved: true, plugins.NodeRoom: false, plugins.Anything: false} {
		if got := c.quiet(event, before); got != want {
			t.Errorf("quiet(%b) = %v, want %v", event, got, want)
		}
	}
	if !c.quiet(plugins.Anything, c.moment) {
		t.Error("not quiet after the last event")
	}
}

func TestSignature(t *testing.T) {
	base := func() *corev1.Pod { return apart(testPod("p", "1", "", 1)) }
	other := base()
	other.Name, other.UID, other.Spec.Containers[0].Image = "q", "q", "registry.example/other:1"
	if signature(snapshot.NewPod(base())) != signature(snapshot.NewPod(other)) {
		t.Error("pods alike have different signatures")
	}
	for name, change := range map[string]func(*corev1.Pod){
		"namespace":  func(p *corev1.Pod) { p.Namespace = "other" },
		"priority":   func(p *corev1.Pod) { p.Spec.Priority = new(int32(2)) },
		"preemption": func(p *corev1.Pod) { never(p) },
		"requests": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		},
		"labels":   func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} },
		"selector": func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"app": "web"} },
		"ports":    func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}} },
		"affinity": func(p *corev1.Pod) { p.Spec.Affinity = nil },
		"tolerations": func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		},
		"spreading": func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1}}
		},
	} {
		p := base()
		change(p)
		if signature(snapshot.NewPod(p)) == signature(snapshot.NewPod(base())) {
			t.Errorf("%s: the signature is the same", name)
		}
	}
}
