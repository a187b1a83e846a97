// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func node(name, zone string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: zone}},
		Status:     corev1.NodeStatus{Images: []corev1.ContainerImage{{Names: []string{"image-of-" + zone, "everywhere"}, SizeBytes: 10}}},
	}
}

func pod(name, on, app string) *corev1.Pod {
	same := []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": app},
			OwnerReferences: []metav1.OwnerReference{{UID: types.UID("rs-" + app), Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: on,
			Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: same}},
			Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), "example.com/gpu": resource.MustParse("1"),
			}}}},
		},
	}
}

func names(s *Snapshot) (list []string) {
	for _, n := range s.Nodes {
		list = append(list, n.Name)
	}
	return list
}

func TestZonesAlternate(t *testing.T) {
	s := NewState()
	for _, n := range []*corev1.Node{node("d", "y"), node("a", "x"), node("b", "x"), node("c", "x"), node("e", "y")} {
		s.SetNode(n)
	}
	if got := names(s.Snapshot()); !slices.Equal(got, []string{"a", "d", "b", "e", "c"}) {
		t.Errorf("order %v", got)
	}
}

func TestAssume(t *testing.T) {
	s := NewState()
	s.SetNode(node("a", "x"))
	snap := s.Snapshot()
	pods := func() int {
		s.Refresh(snap)
		return len(snap.Nodes[0].Pods)
	}
	p := NewPod(pod("p", "", "web"))
	s.Assume(p.On("a"))
	if pods() != 1 || p.Spec.NodeName != "" {
		t.Errorf("assumed: %d pods, pod on %q", pods(), p.Spec.NodeName)
	}
	s.Forget(p.UID)
	if pods() != 0 {
		t.Errorf("forgotten: %d pods", pods())
	}
	s.Assume(p.On("a"))
	if placed, changed := s.SetPod(pod("p", "a", "web")); !placed || changed {
		t.Errorf("confirmed: placed %v, changed %v", placed, changed)
	}
	s.Forget(p.UID) // too late: it is there
	if pods() != 1 {
		t.Errorf("confirmed: %d pods", pods())
	}
	if placed, changed := s.SetPod(pod("p", "a", "other")); placed || !changed {
		t.Errorf("other labels: placed %v, changed %v", placed, changed)
	}
}

func TestOrphansComeBack(t *testing.T) {
	s := NewState()
	s.SetPod(pod("p", "a", "web"))
	s.SetNode(node("a", "x"))
	s.RemoveNode("a")
	s.SetNode(node("a", "x"))
	if snap := s.Snapshot(); len(snap.Nodes[0].Pods) != 1 || snap.Nodes[0].Requested.CPU != 100 || snap.Nodes[0].Requested.Others["example.com/gpu"] != 1 {
		t.Errorf("node %+v", snap.Nodes[0])
	}
}

// view is all that an index says, for comparison.
func view(s *Snapshot) map[string]any {
	all := map[string]any{"nodes": names(s), "images": maps.Clone(s.index.images), "zones": maps.Clone(s.Domains(corev1.LabelTopologyZone))}
	for app := range 3 {
		owner := types.UID(fmt.Sprint("rs-", app))
		if c := s.Siblings(owner); c != nil {
			all[string(owner)] = maps.Clone(c.By)
		}
		term := In("default", labels.SelectorFromSet(labels.Set{"app": fmt.Sprint(app)}))
		for _, key := range []string{"", corev1.LabelTopologyZone} {
			c := s.Matching(key, term)
			all[fmt.Sprint(app, key)] = fmt.Sprint(c.Total, c.By)
		}
	}
	for id, g := range s.Without() {
		all[id] = fmt.Sprint(g.pods, g.Total, g.By)
	}
	for _, n := range s.Nodes {
		all["on "+n.Name] = fmt.Sprint(len(n.Pods), n.Requested)
	}
	return all
}

// TestIndexIsWhatCountingGives changes the cluster at random: a snapshot that follows must be like a new one.
func TestIndexIsWhatCountingGives(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := NewState()
		snap := s.Snapshot()
		view(snap) // asks for counts, which are kept from here on
		for step := range 200 {
			name, zone := fmt.Sprint("n", random.IntN(5)), fmt.Sprint("z", random.IntN(3))
			p := pod(fmt.Sprint("p", random.IntN(20)), name, fmt.Sprint(random.IntN(3)))
			switch random.IntN(6) {
			case 0:
				s.SetNode(node(name, zone))
			case 1:
				s.RemoveNode(name)
			case 2, 3:
				s.SetPod(p)
			case 4:
				s.RemovePod(p.UID)
			case 5:
				now := metav1.Now()
				p.DeletionTimestamp = &now
				s.SetPod(p)
			}
			if random.IntN(3) > 0 {
				continue
			}
			s.Refresh(snap)
			fresh := &Snapshot{index: newIndex()}
			s.Refresh(fresh)
			if got, want := view(snap), view(fresh); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("seed %d, step %d:\n got %v\nwant %v", seed, step, got, want)
			}
		}
	}
}
