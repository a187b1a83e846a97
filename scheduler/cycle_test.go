// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// room is what a node has: CPUs, memory and pods.
func room(cpu, memory, pods string) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourcePods: resource.MustParse(pods),
	}
}

func testNode(name string, has corev1.ResourceList) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: has},
	}
}

// testPod is a pod that asks for CPU; on, if not empty, is its node.
func testPod(name, cpu, on string, priority int32) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Generation: 1},
		Spec: corev1.PodSpec{NodeName: on, Priority: &priority, Containers: []corev1.Container{{
			Image:     "registry.example/web:1",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
}

func newCycle() *cycle {
	return &cycle{plugins: plugins.All(), random: rand.New(rand.NewPCG(1, 1))}
}

// stateOf has nodes with 2 CPUs named a, b, ..., and pods.
func stateOf(nodes int, pods ...*corev1.Pod) *snapshot.State {
	s := snapshot.NewState()
	for i := range nodes {
		s.SetNode(testNode(string(rune('a'+i)), room("2", "8Gi", "110")))
	}
	for _, p := range pods {
		s.SetPod(p)
	}
	return s
}

// pinned lets a pod go to one node only, as DaemonSets do.
func pinned(p *corev1.Pod, node string) *corev1.Pod {
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}}}
	return p
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name      string
		nodes     int
		pods      []*corev1.Pod
		pod       *corev1.Pod
		nominated map[string]*corev1.Pod // by node
		want      string                 // a node or a message
	}{
		{"no nodes", 0, nil, testPod("p", "1", "", 0), nil, "no nodes available to schedule pods"},
		{"the emptiest", 3, []*corev1.Pod{testPod("x", "1", "a", 0), testPod("y", "1", "c", 0)}, testPod("p", "1", "", 0), nil, "b"},
		{"too large", 2, []*corev1.Pod{testPod("x", "1", "a", 0)}, testPod("p", "2500m", "", 0), nil, "0/2 nodes are available: 2 Insufficient cpu."},
		{"named", 3, nil, pinned(testPod("p", "1", "", 0), "b"), nil, "b"},
		{
			"named but full", 3, []*corev1.Pod{testPod("x", "2", "b", 0)}, pinned(testPod("p", "1", "", 0), "b"), nil,
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
		},
		{
			"room is kept for the nominated", 2, []*corev1.Pod{testPod("x", "1", "a", 0)}, testPod("p", "1", "", 0),
			map[string]*corev1.Pod{"b": testPod("n", "2", "", 0)}, "a",
		},
		{
			"but not for those of lower priority", 1, nil, testPod("p", "1", "", 5),
			map[string]*corev1.Pod{"a": testPod("n", "2", "", 4)}, "a",
		},
		{
			"its own nomination comes first", 3, []*corev1.Pod{testPod("x", "1", "c", 0)}, testPod("p", "1", "", 0),
			map[string]*corev1.Pod{"c": testPod("p", "1", "", 0)}, "c",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			nominated := newNominations()
			for node, p := range c.nominated {
				nominated.set(snapshot.NewPod(p), node)
			}
			node, d := newCycle().choose(snapshot.NewPod(c.pod), stateOf(c.nodes, c.pods...).Snapshot(), nominated)
			got := ""
			if node != nil {
				got = node.Name
			} else {
				got = d.message
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestSample(t *testing.T) {
	for _, c := range []struct{ nodes, percent, want int }{
		{0, 0, 0}, {100, 0, 100}, {100, 5, 100}, {250, 0, 120}, {1000, 0, 420}, {5000, 0, 500}, {20000, 0, 1000}, {1000, 100, 1000}, {1000, 1, 100},
	} {
		if got := sample(c.nodes, c.percent); got != c.want {
			t.Errorf("sample(%d, %d) = %d, want %d", c.nodes, c.percent, got, c.want)
		}
	}
}

func TestSearchGoesRound(t *testing.T) {
	s := snapshot.NewState()
	for i := range 300 {
		s.SetNode(testNode(fmt.Sprintf("n%03d", i), room("2", "8Gi", "110")))
	}
	c, snap := newCycle(), s.Snapshot()
	seen := map[string]bool{}
	for i := range 3 {
		if node, _ := c.choose(snapshot.NewPod(testPod(fmt.Sprint(i), "1", "", 0)), snap, newNominations()); node == nil {
			t.Fatal("no node")
		}
		for _, n := range c.fit {
			seen[n.Name] = true
		}
	}
	if len(seen) != 300 {
		t.Errorf("three searches saw %d of 300 nodes", len(seen))
	}
}

func since(p *corev1.Pod, minute int) *corev1.Pod {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))
	p.Status.StartTime = &at
	return p
}

func never(p *corev1.Pod) *corev1.Pod {
	policy := corev1.PreemptNever
	p.Spec.PreemptionPolicy = &policy
	return p
}

func ending(p *corev1.Pod) *corev1.Pod {
	now := metav1.Now()
	p.DeletionTimestamp = &now
	return p
}

// apart keeps pods with the label app=web off the pod's node.
func apart(p *corev1.Pod) *corev1.Pod {
	p.Labels = map[string]string{"app": "web"}
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
	}}}}
	return p
}

func TestPreempt(t *testing.T) {
	type pods = []*corev1.Pod
	for _, c := range []struct {
		name      string
		nodes     int
		pods      pods
		pod       *corev1.Pod
		nominated string
		want      string // node and victims, or a message
	}{
		{"the lower priority", 2, pods{testPod("x", "2", "a", 2), testPod("y", "2", "b", 1)}, testPod("p", "1", "", 9), "", "b [y]"},
		{"as few as possible", 1, pods{testPod("x", "1", "a", 1), testPod("y", "500m", "a", 2), testPod("z", "500m", "a", 3)}, testPod("p", "1", "", 9), "", "a [x]"},
		{"fewer victims", 2, pods{testPod("x", "1", "a", 1), testPod("y", "1", "a", 1), testPod("z", "2", "b", 1)}, testPod("p", "2", "", 9), "", "b [z]"},
		{"the one that started last", 2, pods{since(testPod("x", "2", "a", 1), 1), since(testPod("y", "2", "b", 1), 2)}, testPod("p", "2", "", 9), "", "b [y]"},
		{"the younger of a node", 1, pods{since(testPod("x", "1", "a", 1), 2), since(testPod("y", "1", "a", 1), 1)}, testPod("p", "1", "", 9), "", "a [x]"},
		{"anti-affinity gives way", 1, pods{apart(testPod("x", "100m", "a", 1)), testPod("y", "100m", "a", 1)}, apart(testPod("p", "1", "", 9)), "", "a [x]"},
		{"nobody below", 1, pods{testPod("x", "2", "a", 9)}, testPod("p", "1", "", 9), "",
			"0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{"too large for the node", 1, pods{testPod("x", "2", "a", 1)}, testPod("p", "3", "", 9), "",
			"0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{"not enough", 1, pods{testPod("x", "1", "a", 1), testPod("y", "1", "a", 9)}, testPod("p", "2", "", 9), "",
			"0/1 nodes are available: 1 Insufficient cpu."},
		{"never", 1, pods{testPod("x", "2", "a", 1)}, never(testPod("p", "1", "", 9)), "", "not eligible due to preemptionPolicy=Never."},
		{"victims are about to leave", 1, pods{ending(testPod("x", "2", "a", 1))}, testPod("p", "1", "", 9), "a",
			"not eligible due to a terminating pod on the nominated node."},
	} {
		t.Run(c.name, func(t *testing.T) {
			cycle, snap := newCycle(), stateOf(c.nodes, c.pods...).Snapshot()
			node, d := cycle.choose(snapshot.NewPod(c.pod), snap, newNominations())
			if node != nil {
				t.Fatalf("fits on %s", node.Name)
			}
			chosen, got := cycle.preempt(d, c.nominated)
			if chosen != nil {
				var names []string
				for _, v := range chosen.victims {
					names = append(names, v.Name)
				}
				got = fmt.Sprint(chosen.node.Name, " ", names)
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// BenchmarkSchedule is the cycle alone: refresh, choose, assume.
func BenchmarkSchedule(b *testing.B) {
	kinds := []struct {
		name string
		make func(i int) *corev1.Pod
	}{
		{"plain", func(i int) *corev1.Pod { return testPod(fmt.Sprint("p", i), "100m", "", 0) }},
		{"owned", func(i int) *corev1.Pod {
			p := testPod(fmt.Sprint("p", i), "100m", "", 0)
			p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(fmt.Sprint("rs", i/100)), Controller: new(true)}}
			return p
		}},
		{"spread", func(i int) *corev1.Pod {
			p := testPod(fmt.Sprint("p", i), "100m", "", 0)
			p.Labels = map[string]string{"app": "web"}
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
			}}
			return p
		}},
		{"affinity", func(i int) *corev1.Pod {
			p := apart(testPod(fmt.Sprint("p", i), "100m", "", 0))
			p.Labels = map[string]string{"app": fmt.Sprint("web", i/100)}
			p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels = p.Labels
			return p
		}},
		{"full", func(i int) *corev1.Pod { return testPod(fmt.Sprint("p", i), "64", "", 0) }},
	}
	for _, nodes := range []int{100, 1000, 5000} {
		for _, kind := range kinds {
			b.Run(fmt.Sprintf("%s/%d", kind.name, nodes), func(b *testing.B) {
				s := snapshot.NewState()
				for i := range nodes {
					n := testNode(fmt.Sprintf("n%04d", i), room("32", "256Gi", "110"))
					n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("z", i%3)
					s.SetNode(n)
				}
				c, snap, nominated := newCycle(), s.Snapshot(), newNominations()
				b.ReportAllocs()
				placed, k := []*snapshot.Pod(nil), 0
				for b.Loop() {
					pod := snapshot.NewPod(kind.make(k))
					k++
					s.Refresh(snap)
					node, _ := c.choose(pod, snap, nominated)
					if node == nil {
						continue
					}
					pod = pod.On(node.Name)
					s.Assume(pod)
					if placed = append(placed, pod); len(placed) > nodes*30 { // steady state: 30 pods a node
						s.RemovePod(placed[0].UID)
						placed = placed[1:]
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			})
		}
	}
}
