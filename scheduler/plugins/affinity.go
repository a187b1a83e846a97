// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"slices"

	"knarr.dev/scheduler/snapshot"
)

// changing are counts of pods by domain that a rule is told to change: those of the snapshot and the difference.
type changing struct {
	base, delta map[string]int64
}

func (c *changing) get(domain string) int64 {
	if c.delta == nil {
		return c.base[domain]
	}
	return c.base[domain] + c.delta[domain]
}

func (c *changing) add(domain string, by int64) {
	if c.delta == nil {
		c.delta = map[string]int64{}
	}
	if c.delta[domain] += by; c.delta[domain] == 0 {
		delete(c.delta, domain)
	}
}

// counted is a term with the pods that it is about.
type counted struct {
	snapshot.Term
	changing
	total int64
}

func newCounted(t snapshot.Term, counts *snapshot.Counts) counted {
	return counted{Term: t, changing: changing{base: counts.By}, total: counts.Total}
}

// on returns how many there are in the domain of a node.
func (c *counted) on(n *snapshot.Node) (int64, bool) {
	domain, has := n.Domain(c.Key)
	if !has {
		return 0, false
	}
	return c.get(domain), true
}

func (c *counted) move(n *snapshot.Node, by int64) {
	if domain, has := n.Domain(c.Key); has {
		c.add(domain, by)
		c.total += by
	}
}

// affinity is what the terms of the pod to place say of pods that are there, and what theirs say of it.
type affinity struct {
	pod     *snapshot.Pod
	snap    *snapshot.Snapshot
	with    []counted // all count the pods that all of them speak of
	without []counted
	theirs  []counted // required anti-affinity
	prefer  []counted
}

// interPodAffinity follows pod affinity and anti-affinity, the pod's own and that of pods that are there already.
func interPodAffinity(pod *snapshot.Pod, s *snapshot.Snapshot) Rule {
	a := &affinity{pod: pod, snap: s}
	for _, t := range pod.With {
		a.with = append(a.with, newCounted(t, s.Matching(t.Key, pod.With...)))
	}
	for _, t := range pod.Without {
		a.without = append(a.without, newCounted(t, s.Matching(t.Key, t)))
	}
	for _, t := range pod.Prefer {
		a.prefer = append(a.prefer, newCounted(t, s.Matching(t.Key, t)))
	}
	a.theirs = speaking(s.Without(), pod, s, nil)
	a.prefer = speaking(s.Prefer(), pod, s, a.prefer)
	a.prefer = speaking(s.With(), pod, s, a.prefer) // with weight 1
	rule := Rule{Filter: a.filter(), Move: a.move}
	if len(a.prefer) > 0 {
		rule.Score, rule.Normalize = a.score, spread
	}
	return rule
}

// speaking appends the terms of pods that are there that speak of a pod.
func speaking(groups map[string]*snapshot.Group, pod *snapshot.Pod, s *snapshot.Snapshot, list []counted) []counted {
	for _, g := range groups {
		if g.Term.Matches(pod, s) {
			list = append(list, newCounted(g.Term, g.Counts))
		}
	}
	return list
}

func (a *affinity) score(n *snapshot.Node) (sum int64) {
	for i := range a.prefer {
		c, _ := a.prefer[i].on(n)
		sum += c * a.prefer[i].Weight
	}
	return sum
}

func (a *affinity) filter() func(n *snapshot.Node) Verdict {
	theirs := refuse("node(s) didn't satisfy existing pods anti-affinity rules")
	without := refuse("node(s) didn't match pod anti-affinity rules")
	with := exclude("node(s) didn't match pod affinity rules")
	return func(n *snapshot.Node) Verdict {
		if !a.holds(n) {
			return with
		}
		for i := range a.without {
			if c, _ := a.without[i].on(n); c > 0 {
				return without
			}
		}
		for i := range a.theirs {
			if c, _ := a.theirs[i].on(n); c > 0 {
				return theirs
			}
		}
		return Verdict{}
	}
}

// matchesAll tells whether all of the pod's required affinity speaks of p.
func (a *affinity) matchesAll(p *snapshot.Pod) bool {
	for i := range a.pod.With {
		if !a.pod.With[i].Matches(p, a.snap) {
			return false
		}
	}
	return len(a.pod.With) > 0
}

// move counts a pod as there, or gone.
func (a *affinity) move(n *snapshot.Node, p *snapshot.Pod, by int64) {
	if a.matchesAll(p) {
		for i := range a.with {
			a.with[i].move(n, by)
		}
	}
	for i := range a.without {
		if a.without[i].Matches(p, a.snap) {
			a.without[i].move(n, by)
		}
	}
	for _, t := range p.Without {
		if !t.Matches(a.pod, a.snap) {
			continue
		}
		i := slices.IndexFunc(a.theirs, func(c counted) bool { return c.Same(&t) })
		if i < 0 { // nominated, and the first with this term
			a.theirs = append(a.theirs, counted{Term: t})
			i = len(a.theirs) - 1
		}
		a.theirs[i].move(n, by)
	}
}

// holds tells whether each term finds a pod in the node's domain. The first pod of a group may go anywhere.
func (a *affinity) holds(n *snapshot.Node) bool {
	missing, nobody := false, true
	for i := range a.with {
		c, has := a.with[i].on(n)
		if !has {
			return false
		}
		missing = missing || c == 0
		nobody = nobody && a.with[i].total == 0
	}
	return !missing || nobody && a.matchesAll(a.pod)
}
