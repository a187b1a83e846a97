// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/apiserver"
	"knarr.dev/client"
	"knarr.dev/scheduler"
	"knarr.dev/store/pebble"
)

// cluster is an API server with a scheduler, and an administrator.
type cluster struct {
	t     testing.TB
	admin *client.Client
	pods  client.Resource[corev1.Pod]
	view  client.View[corev1.Pod]
}

// start runs both until the test ends. The scheduler asks as system:kube-scheduler, with the role that this has.
func start(t testing.TB, cfg scheduler.Config) *cluster {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s, err := apiserver.New(apiserver.Config{Store: st, Kinds: api.Kinds(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatalf("API server ended early: %v", err)
	}
	identity := call.Identity{Name: "system:kube-scheduler", Groups: []string{"system:authenticated"}}
	go func() { ended <- scheduler.New(cfg, client.New(s.Transport(identity)), log).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("ended: %v", err)
			}
		}
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	admin := client.New(s.Transport(call.Identity{Name: "admin", Groups: []string{"system:masters"}}))
	c := &cluster{t: t, admin: admin, pods: client.Of(admin, core.Pods)}
	if c.view, err = c.pods.View(t.Context(), client.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *cluster) node(name, cpu string, taints ...corev1.Taint) {
	c.t.Helper()
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{Allocatable: room, Capacity: room},
	}
	if _, err := client.Of(c.admin, core.Nodes).Create(c.t.Context(), n); err != nil {
		c.t.Fatal(err)
	}
}

func pod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "registry.example/web:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
}

func (c *cluster) create(p *corev1.Pod) {
	c.t.Helper()
	if _, err := c.pods.Create(c.t.Context(), p); err != nil {
		c.t.Fatal(err)
	}
}

// until waits for a pod to be as wanted; nil is a pod that is not there.
func (c *cluster) until(name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	var found *corev1.Pod
	done := false
	look := func() {
		if p := c.view.Get(client.Key{Namespace: "default", Name: name}); !done && wanted(p) {
			found, done = p, true
			cancel()
		}
	}
	_ = c.view.Subscribe(ctx, func(_, _ *corev1.Pod) { look() }, look)
	if !done {
		c.t.Fatalf("pod %s: not %s: %+v", name, what, c.view.Get(client.Key{Namespace: "default", Name: name}))
	}
	return found
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	if p != nil {
		for _, c := range p.Status.Conditions {
			if c.Type == kind {
				return c
			}
		}
	}
	return corev1.PodCondition{}
}

func bound(p *corev1.Pod) bool { return p != nil && p.Spec.NodeName != "" }

func TestSchedules(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	c := start(t, scheduler.Config{Metrics: registry})
	c.create(pod("early", "1"))
	p := c.until("early", "refused", func(p *corev1.Pod) bool { return condition(p, corev1.PodScheduled).Status == corev1.ConditionFalse })
	if got := condition(p, corev1.PodScheduled); got.Reason != "Unschedulable" || got.Message != "no nodes available to schedule pods" {
		t.Errorf("condition without nodes: %+v", got)
	}
	c.node("a", "2")
	c.node("b", "1", corev1.Taint{Key: "dedicated", Effect: corev1.TaintEffectNoSchedule})
	if p := c.until("early", "bound", bound); p.Spec.NodeName != "a" || condition(p, corev1.PodScheduled).Status != corev1.ConditionTrue {
		t.Errorf("bound to %s, %+v", p.Spec.NodeName, p.Status.Conditions)
	}
	c.create(pod("large", "1500m"))
	want := "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s). " +
		"preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
	c.until("large", "refused: "+want, func(p *corev1.Pod) bool { return condition(p, corev1.PodScheduled).Message == want })
	if err := c.pods.Delete(t.Context(), client.Key{Namespace: "default", Name: "early"}, metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	c.until("large", "bound once there is room", bound)
	families, err := registry.Gather()
	if err != nil || len(families) < 5 {
		t.Errorf("%d metrics, %v", len(families), err)
	}
	c.events("Scheduled Successfully assigned default/large to a", "FailedScheduling "+want)
}

// events waits for events of pods to be written.
func (c *cluster) events(want ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	view, err := client.Of(c.admin, core.Events).View(ctx, client.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	seen := map[string]bool{}
	_ = view.Subscribe(ctx, func(e, _ *corev1.Event) {
		if e == nil || e.ReportingController != "default-scheduler" {
			return
		}
		seen[e.Reason+" "+e.Message] = true
		for _, w := range want {
			if !seen[w] {
				return
			}
		}
		cancel()
	}, func() {})
	for _, w := range want {
		if !seen[w] {
			c.t.Errorf("no event %q among %v", w, seen)
		}
	}
}

// TestRefusesAlikeOnce has many pods alike that fit nowhere: one is tried, and when there is room, all are bound.
func TestRefusesAlikeOnce(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	c := start(t, scheduler.Config{Metrics: registry})
	c.node("a", "2")
	c.create(pod("first", "1"))
	c.until("first", "bound", bound)
	for i := range 20 {
		c.create(pod(fmt.Sprint("p", i), "4"))
	}
	for i := range 20 {
		c.until(fmt.Sprint("p", i), "refused", func(p *corev1.Pod) bool { return condition(p, corev1.PodScheduled).Reason == "Unschedulable" })
	}
	if got := computed(t, registry); got > 3 { // one for the first, one for its like, one more if that was before an event
		t.Errorf("%d cycles", got)
	}
	c.node("b", "80")
	for i := range 20 {
		c.until(fmt.Sprint("p", i), "bound", bound)
	}
}

// computed tells how many cycles there were.
func computed(t *testing.T, registry *prometheus.Registry) uint64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "scheduler_scheduling_algorithm_duration_seconds" {
			return f.Metric[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

func TestGatesHoldBack(t *testing.T) {
	c := start(t, scheduler.Config{})
	c.node("a", "2")
	p := pod("gated", "1")
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	c.create(p)
	p = c.until("gated", "gated", func(p *corev1.Pod) bool { return condition(p, corev1.PodScheduled).Reason == "SchedulingGated" })
	if bound(p) {
		t.Fatal("bound in spite of its gate")
	}
	next := p.DeepCopy()
	next.Spec.SchedulingGates = nil
	if _, err := c.pods.Update(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	c.until("gated", "bound", bound)
}

func TestPreempts(t *testing.T) {
	c := start(t, scheduler.Config{})
	c.node("a", "2")
	for i := range 2 {
		c.create(pod(fmt.Sprintf("low-%d", i), "1"))
		c.until(fmt.Sprintf("low-%d", i), "bound", bound)
	}
	p := pod("high", "1")
	p.Spec.Priority = new(int32(1000))
	c.create(p)
	p = c.until("high", "nominated", func(p *corev1.Pod) bool { return p != nil && p.Status.NominatedNodeName == "a" })
	if got := condition(p, corev1.PodScheduled); got.Message != "0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("condition: %+v", got)
	}
	var victim *corev1.Pod
	c.until("high", "with a victim", func(*corev1.Pod) bool {
		for v := range c.view.All("default") {
			if condition(v, corev1.DisruptionTarget).Status == corev1.ConditionTrue && v.DeletionTimestamp != nil {
				victim = v
			}
		}
		return victim != nil
	})
	if got := condition(victim, corev1.DisruptionTarget); got.Reason != "PreemptionByScheduler" || !strings.HasPrefix(victim.Name, "low-") {
		t.Errorf("victim %s: %+v", victim.Name, got)
	}
	if err := c.pods.Delete(t.Context(), client.KeyOf(victim), metav1.NewDeleteOptions(0)); err != nil { // as its node does in the end
		t.Fatal(err)
	}
	c.until("high", "bound", bound)
}

// BenchmarkBind is the whole way: pods that are created until they are bound, over 1000 nodes.
func BenchmarkBind(b *testing.B) {
	c := start(b, scheduler.Config{})
	for i := range 1000 {
		c.node(fmt.Sprintf("n%04d", i), "64")
	}
	b.ResetTimer()
	var group sync.WaitGroup
	for k := range 64 {
		group.Go(func() {
			for i := k; i < b.N; i += 64 {
				if _, err := c.pods.Create(context.Background(), pod(fmt.Sprintf("p%06d", i), "100m")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	created := b.Elapsed()
	ctx, cancel := context.WithCancel(b.Context())
	left := map[string]bool{}
	done := func() {
		if len(left) == 0 {
			cancel()
		}
	}
	synced := false
	_ = c.view.Subscribe(ctx, func(p, _ *corev1.Pod) {
		if p == nil {
			return
		}
		if left[p.Name] = true; bound(p) {
			delete(left, p.Name)
		}
		if synced {
			done()
		}
	}, func() { synced = true; done() })
	b.ReportMetric(float64(b.N)/created.Seconds(), "created/s")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "bound/s")
}
