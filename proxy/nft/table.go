// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nft keeps one nftables table as wanted.
//
// A Table is a fixed base and parts that come and go. Host remembers what it applied and changes the difference in one
// transaction, whose size is that of the change. The table is ours alone: a full sync replaces it as a whole.
package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Table is everything that a table holds.
type Table struct {
	// Base is the fixed content: declarations as in a table block, one a line or block.
	Base string
	// Parts are the changing content, by owner. Names of chains and sets must be unique among all parts.
	Parts map[string]Part
}

// Part is what one owner contributes.
type Part struct {
	// Chains hold rules.
	Chains map[string][]string
	// Sets are declared with their properties; their elements come and go in the kernel and survive changes.
	Sets map[string]string
	// Elements of sets and maps of the base; the value is the verdict of a map's element, empty for sets. If several parts
	// have the same element, the first owner in order gets it.
	Elements map[Element]string
	// Flows are the ways of UDP traffic. Connection tracking forgets what goes another way.
	Flows map[Flow]bool
}

// Element is a key of a set or map.
type Element struct{ Set, Key string }

// Flow is UDP traffic to a front that is sent on to an endpoint.
type Flow struct{ Front, Endpoint netip.AddrPort }

// Fronts are addresses and ports with the endpoints that their traffic may go to.
type Fronts map[netip.AddrPort][]netip.AddrPort

// Stale tells whether a tracked connection to front that is sent on to endpoint should not be.
func (f Fronts) Stale(front, endpoint netip.AddrPort) bool {
	endpoints, ours := f[front]
	return ours && !slices.Contains(endpoints, endpoint)
}

// NewPart returns an empty part.
func NewPart() Part {
	return Part{Chains: map[string][]string{}, Sets: map[string]string{}, Elements: map[Element]string{}, Flows: map[Flow]bool{}}
}

// Empty tells whether p has nothing.
func (p Part) Empty() bool { return len(p.Chains)+len(p.Sets)+len(p.Elements) == 0 }

// state is what is in the kernel.
type state struct {
	parts  map[string]Part
	claims map[Element]map[string]string // who wants an element, and how
}

func newState() *state {
	return &state{parts: map[string]Part{}, claims: map[Element]map[string]string{}}
}

// effective is the verdict that e has now.
func (s *state) effective(e Element) (string, bool) {
	claims := s.claims[e]
	if len(claims) == 0 {
		return "", false
	}
	first, some := "", false
	for owner := range claims {
		if !some || owner < first {
			first, some = owner, true
		}
	}
	return claims[first], true
}

// change is the difference between two states, and in which order to apply it.
type change struct {
	addSets, addChains, rules, elements, flush, delChains, delSets []string
	fronts                                                         Fronts
}

func (c *change) script() string {
	var b strings.Builder
	for _, lines := range [][]string{c.addSets, c.addChains, c.rules, c.elements, c.flush, c.delChains, c.delSets} {
		for _, l := range lines {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// update makes s hold the given parts (empty ones go) and returns what that changes in table.
func (s *state) update(table string, parts map[string]Part) *change {
	c := &change{fronts: Fronts{}}
	before := map[Element]*string{}
	for _, owner := range slices.Sorted(maps.Keys(parts)) {
		was, will := s.parts[owner], parts[owner]
		c.sets(table, was, will)
		c.chains(table, was, will)
		c.flows(was, will)
		s.claim(owner, was, will, before)
		if will.Empty() {
			delete(s.parts, owner)
		} else {
			s.parts[owner] = will
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(before), compareElements) {
		c.element(table, e, before[e], s)
	}
	return c
}

// claim replaces the claims of owner and notes in before what each touched element was.
func (s *state) claim(owner string, was, will Part, before map[Element]*string) {
	touch := func(e Element) {
		if _, noted := before[e]; noted {
			return
		}
		before[e] = nil
		if v, some := s.effective(e); some {
			before[e] = &v
		}
	}
	for e, v := range was.Elements {
		if w, stays := will.Elements[e]; stays && v == w {
			continue
		}
		touch(e)
		delete(s.claims[e], owner)
		if len(s.claims[e]) == 0 {
			delete(s.claims, e)
		}
	}
	for e, w := range will.Elements {
		if v, stood := was.Elements[e]; stood && v == w {
			continue
		}
		touch(e)
		if s.claims[e] == nil {
			s.claims[e] = map[string]string{}
		}
		s.claims[e][owner] = w
	}
}

// flows notes fronts that lost an endpoint or are new: what was tracked before went elsewhere or nowhere.
func (c *change) flows(was, will Part) {
	before := map[netip.AddrPort]bool{}
	for f := range was.Flows {
		before[f.Front] = true
		if !will.Flows[f] {
			c.fronts[f.Front] = nil
		}
	}
	for f := range will.Flows {
		if !before[f.Front] {
			c.fronts[f.Front] = nil
		}
	}
	for f := range will.Flows {
		if endpoints, touched := c.fronts[f.Front]; touched {
			c.fronts[f.Front] = append(endpoints, f.Endpoint)
		}
	}
}

func (c *change) sets(table string, was, will Part) {
	for _, name := range slices.Sorted(maps.Keys(will.Sets)) {
		if _, there := was.Sets[name]; !there {
			c.addSets = append(c.addSets, fmt.Sprintf("add set ip %s %s { %s }", table, name, will.Sets[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was.Sets)) {
		if _, stays := will.Sets[name]; !stays {
			c.delSets = append(c.delSets, fmt.Sprintf("delete set ip %s %s", table, name))
		}
	}
}

func (c *change) chains(table string, was, will Part) {
	for _, name := range slices.Sorted(maps.Keys(will.Chains)) {
		old, there := was.Chains[name]
		if there && slices.Equal(old, will.Chains[name]) {
			continue
		}
		if there {
			c.addChains = append(c.addChains, fmt.Sprintf("flush chain ip %s %s", table, name))
		} else {
			c.addChains = append(c.addChains, fmt.Sprintf("add chain ip %s %s", table, name))
		}
		for _, r := range will.Chains[name] {
			c.rules = append(c.rules, fmt.Sprintf("add rule ip %s %s %s", table, name, r))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was.Chains)) {
		if _, stays := will.Chains[name]; !stays {
			c.flush = append(c.flush, fmt.Sprintf("flush chain ip %s %s", table, name))
			c.delChains = append(c.delChains, fmt.Sprintf("delete chain ip %s %s", table, name))
		}
	}
}

func (c *change) element(table string, e Element, was *string, now *state) {
	v, some := now.effective(e)
	if some && was != nil && *was == v {
		return
	}
	text := e.Key
	if was != nil {
		if *was != "" {
			text += " : " + *was
		}
		c.elements = append(c.elements, fmt.Sprintf("delete element ip %s %s { %s }", table, e.Set, text))
	}
	if some {
		text = e.Key
		if v != "" {
			text += " : " + v
		}
		c.elements = append(c.elements, fmt.Sprintf("add element ip %s %s { %s }", table, e.Set, text))
	}
}

func compareElements(a, b Element) int {
	if c := strings.Compare(a.Set, b.Set); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}
