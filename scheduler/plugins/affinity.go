// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"knarr.dev/scheduler/snapshot"
)

// domain is a value of a topology key.
type domain struct{ key, value string }

// affinity counts the pods that pod affinity speaks of, by domain.
type affinity struct {
	pod  *snapshot.Pod
	snap *snapshot.Snapshot
	// present and near are counts for the pod's own terms, by term; refused is what pods that are there say of the pod.
	present, near []map[string]int64
	refused       map[domain]int64
	scores        map[domain]int64
}

// interPodAffinity follows pod affinity and anti-affinity, the pod's own and that of pods that are there already.
func interPodAffinity(pod *snapshot.Pod, s *snapshot.Snapshot) Rule {
	own := len(pod.With)+len(pod.Without)+len(pod.Prefer) > 0
	if !own && len(s.Affine) == 0 {
		return Rule{}
	}
	a := &affinity{
		pod: pod, snap: s, present: countsFor(len(pod.With)), near: countsFor(len(pod.Without)), refused: map[domain]int64{}, scores: map[domain]int64{},
	}
	if own {
		for _, n := range s.Nodes {
			for _, p := range n.Pods {
				a.countOwn(n, p, 1)
				a.rate(n, p)
			}
		}
	}
	for _, n := range s.Affine {
		for _, p := range n.Affine {
			a.countOthers(n, p, 1)
			a.rateOthers(n, p)
		}
	}
	rule := Rule{Filter: a.filter()}
	rule.Move = func(n *snapshot.Node, p *snapshot.Pod, by int64) {
		a.countOwn(n, p, by)
		a.countOthers(n, p, by)
	}
	if len(a.scores) > 0 {
		rule.Score = func(n *snapshot.Node) (sum int64) {
			for key, value := range n.Labels {
				sum += a.scores[domain{key, value}]
			}
			return sum
		}
		rule.Normalize = spread
	}
	return rule
}

func countsFor(n int) []map[string]int64 {
	list := make([]map[string]int64, n)
	for i := range list {
		list[i] = map[string]int64{}
	}
	return list
}

func (a *affinity) filter() func(n *snapshot.Node) Verdict {
	theirs := refuse("node(s) didn't satisfy existing pods anti-affinity rules")
	without := refuse("node(s) didn't match pod anti-affinity rules")
	with := exclude("node(s) didn't match pod affinity rules")
	return func(n *snapshot.Node) Verdict {
		if !a.holds(n) {
			return with
		}
		for i := range a.pod.Without {
			if value, has := n.Labels[a.pod.Without[i].Key]; has && a.near[i][value] > 0 {
				return without
			}
		}
		if len(a.refused) > 0 {
			for key, value := range n.Labels {
				if a.refused[domain{key, value}] > 0 {
					return theirs
				}
			}
		}
		return Verdict{}
	}
}

// matchesAll tells whether all of the pod's required terms speak of p: only such pods count for any of them.
func (a *affinity) matchesAll(p *snapshot.Pod) bool {
	for i := range a.pod.With {
		if !a.pod.With[i].Matches(p, a.snap) {
			return false
		}
	}
	return len(a.pod.With) > 0
}

// countOwn counts a pod that is there for the required terms of the pod to place.
func (a *affinity) countOwn(n *snapshot.Node, p *snapshot.Pod, by int64) {
	if a.matchesAll(p) {
		for i := range a.pod.With {
			if value, has := n.Labels[a.pod.With[i].Key]; has {
				count(a.present[i], value, by)
			}
		}
	}
	for i := range a.pod.Without {
		t := &a.pod.Without[i]
		if value, has := n.Labels[t.Key]; has && t.Matches(p, a.snap) {
			count(a.near[i], value, by)
		}
	}
}

// countOthers counts what the required anti-affinity of a pod that is there says of the pod to place.
func (a *affinity) countOthers(n *snapshot.Node, p *snapshot.Pod, by int64) {
	for i := range p.Without {
		t := &p.Without[i]
		if value, has := n.Labels[t.Key]; has && t.Matches(a.pod, a.snap) {
			count(a.refused, domain{t.Key, value}, by)
		}
	}
}

// rate adds to the scores what the pod's preferences say of a pod that is there.
func (a *affinity) rate(n *snapshot.Node, p *snapshot.Pod) {
	for i := range a.pod.Prefer {
		t := &a.pod.Prefer[i]
		if value, has := n.Labels[t.Key]; has && t.Matches(p, a.snap) {
			a.scores[domain{t.Key, value}] += t.Weight
		}
	}
}

// rateOthers adds what a pod that is there prefers; its required affinity counts as a preference of weight 1.
func (a *affinity) rateOthers(n *snapshot.Node, p *snapshot.Pod) {
	for _, list := range [][]snapshot.Term{p.Prefer, p.With} {
		for i := range list {
			t := &list[i]
			if value, has := n.Labels[t.Key]; has && t.Matches(a.pod, a.snap) {
				a.scores[domain{t.Key, value}] += t.Weight
			}
		}
	}
}

func count[K comparable](counts map[K]int64, key K, by int64) {
	if counts[key] += by; counts[key] == 0 {
		delete(counts, key)
	}
}

// holds tells whether each term finds a pod in the node's domain. The first pod of a group may go anywhere.
func (a *affinity) holds(n *snapshot.Node) bool {
	missing, nobody := false, true
	for i := range a.pod.With {
		value, has := n.Labels[a.pod.With[i].Key]
		if !has {
			return false
		}
		missing = missing || a.present[i][value] == 0
		nobody = nobody && len(a.present[i]) == 0
	}
	return !missing || nobody && a.matchesAll(a.pod)
}
