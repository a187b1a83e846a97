// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// maxCounts bounds the counts that are kept up to date.
const maxCounts = 256

// Counts are numbers of pods by domain, which is the value of a topology key, or for the key "" the name of a node.
type Counts struct {
	By    map[string]int64
	Total int64
}

func newCounts() *Counts { return &Counts{By: map[string]int64{}} }

func (c *Counts) add(domain string, by int64) {
	c.Total += by
	if c.By[domain] += by; c.By[domain] == 0 {
		delete(c.By, domain)
	}
}

// Group are the pods that have the same affinity term.
type Group struct {
	Term Term
	*Counts
	pods int
}

// index is what is known of all pods together, kept up to date pod by pod, so that no cycle has to look at all of them.
type index struct {
	owners map[types.UID]*Counts
	images map[string]int // nodes that have an image
	// without, with and prefer are the terms of pods that are there, by their id.
	without, with, prefer map[string]*Group
	// asked are counts of pods that match terms, by the terms' ids, as they were asked for.
	asked map[string]*asked
	turn  int64
	// domains are the values of topology keys, as they were asked for, with the number of their nodes.
	domains map[string]map[string]int
}

// asked is one count of pods that match all of some terms.
type asked struct {
	*Counts
	key   string
	terms []Term
	used  int64 // the turn of the last use
}

func newIndex() index {
	return index{
		owners: map[types.UID]*Counts{}, images: map[string]int{}, without: map[string]*Group{}, with: map[string]*Group{},
		prefer: map[string]*Group{}, asked: map[string]*asked{}, domains: map[string]map[string]int{},
	}
}

// replace brings the index from one version of a node to the next; nil stands for its absence.
func (s *Snapshot) replace(old, next *Node) {
	var before, after []*Pod
	if old != nil {
		before = old.Pods
	}
	if next != nil {
		after = next.Pods
	}
	moved := old != nil && next != nil && old.Node != next.Node && !maps.Equal(old.Labels, next.Labels)
	if old == nil || next == nil || moved {
		clear(s.index.domains)
	}
	if old == nil || next == nil || old.Node != next.Node {
		s.countImages(old, -1)
		s.countImages(next, 1)
	}
	if !moved { // only the middle differs: pods are added at the end, and removed one by one
		for len(before) > 0 && len(after) > 0 && before[0] == after[0] {
			before, after = before[1:], after[1:]
		}
		for len(before) > 0 && len(after) > 0 && before[len(before)-1] == after[len(after)-1] {
			before, after = before[:len(before)-1], after[:len(after)-1]
		}
	}
	for _, p := range before {
		s.count(p, old, -1)
	}
	for _, p := range after {
		s.count(p, next, 1)
	}
}

func (s *Snapshot) countImages(n *Node, by int) {
	if n == nil {
		return
	}
	for name := range n.Images {
		if s.index.images[name] += by; s.index.images[name] == 0 {
			delete(s.index.images, name)
		}
	}
}

func (s *Snapshot) count(p *Pod, n *Node, by int64) {
	if p.Owner != "" {
		counts := s.index.owners[p.Owner]
		if counts == nil {
			counts = newCounts()
			s.index.owners[p.Owner] = counts
		}
		if counts.add(n.Name, by); counts.Total == 0 {
			delete(s.index.owners, p.Owner)
		}
	}
	countTerms(s.index.without, p.Without, n, by)
	countTerms(s.index.with, p.With, n, by)
	countTerms(s.index.prefer, p.Prefer, n, by)
	for _, a := range s.index.asked {
		a.count(s, p, n, by)
	}
}

func countTerms(groups map[string]*Group, terms []Term, n *Node, by int64) {
	for i := range terms {
		t := &terms[i]
		g := groups[t.id]
		if g == nil {
			g = &Group{Term: *t, Counts: newCounts()}
			groups[t.id] = g
		}
		if domain, has := n.Domain(t.Key); has {
			g.add(domain, by)
		}
		if g.pods += int(by); g.pods == 0 {
			delete(groups, t.id)
		}
	}
}

// count counts a pod on a node, if the terms speak of it.
func (a *asked) count(s *Snapshot, p *Pod, n *Node, by int64) {
	domain, has := n.Domain(a.key)
	for i := range a.terms {
		has = has && a.terms[i].Matches(p, s)
	}
	if has {
		a.add(domain, by)
	}
}

// Without returns the required anti-affinity terms of pods that are there; With the required affinity, Prefer the
// preferences. They are the snapshot's own, valid until it is refreshed.
func (s *Snapshot) Without() map[string]*Group { return s.index.without }

// With returns the required affinity terms of pods that are there.
func (s *Snapshot) With() map[string]*Group { return s.index.with }

// Prefer returns the preferences of pods that are there.
func (s *Snapshot) Prefer() map[string]*Group { return s.index.prefer }

// Siblings returns the pods of a controller by node, nil if there are none; the snapshot's own, valid until it is refreshed.
func (s *Snapshot) Siblings(owner types.UID) *Counts { return s.index.owners[owner] }

// ImageNodes tells how many nodes have an image.
func (s *Snapshot) ImageNodes(name string) int { return s.index.images[name] }

// Matching returns the pods that match all of the terms, by the domains of key; without terms there are none. The counts
// are the snapshot's own, valid until it is refreshed. They are kept up to date from then on, as pods of one template
// ask for the same.
func (s *Snapshot) Matching(key string, terms ...Term) *Counts {
	if len(terms) == 0 {
		return newCounts()
	}
	id := key
	for i := range terms {
		id += "&" + terms[i].match
	}
	s.index.turn++
	a := s.index.asked[id]
	if a == nil {
		if len(s.index.asked) >= maxCounts {
			s.dropOldest()
		}
		a = &asked{Counts: newCounts(), key: key, terms: slices.Clone(terms)}
		for _, n := range s.Nodes {
			for _, p := range n.Pods {
				a.count(s, p, n, 1)
			}
		}
		s.index.asked[id] = a
	}
	a.used = s.index.turn
	return a.Counts
}

func (s *Snapshot) dropOldest() {
	oldest := ""
	for id, a := range s.index.asked {
		if oldest == "" || a.used < s.index.asked[oldest].used {
			oldest = id
		}
	}
	delete(s.index.asked, oldest)
}

// Domains returns the values of a topology key and how many nodes have each. The map is the snapshot's own, valid until
// it is refreshed.
func (s *Snapshot) Domains(key string) map[string]int {
	if d := s.index.domains[key]; d != nil {
		return d
	}
	d := map[string]int{}
	for _, n := range s.Nodes {
		if value, has := n.Domain(key); has {
			d[value]++
		}
	}
	s.index.domains[key] = d
	return d
}

// In returns a term that speaks of the pods of a namespace that a selector matches and that are not about to end.
func In(namespace string, selector labels.Selector) Term {
	t := Term{namespaces: []string{namespace}, selector: selector, living: true}
	t.identify()
	return t
}

// identify sets what tells terms apart: match is the same for terms that match the same pods.
func (t *Term) identify() {
	var b strings.Builder
	for _, n := range t.namespaces {
		b.WriteString(n + ",")
	}
	if t.among != nil {
		b.WriteString("/" + t.among.String())
	}
	b.WriteString("|" + t.selector.String())
	if t.living {
		b.WriteString("|living")
	}
	t.match = b.String()
	t.id = t.match + "|" + t.Key + "|" + string(rune(t.Weight+1000))
}

// taintsOf tells the taints that keep pods off from the others.
func taintsOf(n *corev1.Node) (hard, soft []corev1.Taint) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			soft = append(soft, t)
		} else {
			hard = append(hard, t)
		}
	}
	return hard, soft
}
