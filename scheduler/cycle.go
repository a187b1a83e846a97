// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// cycle chooses nodes. It belongs to one goroutine and does nothing but compute.
type cycle struct {
	plugins []plugins.Plugin
	percent int // of nodes that suffice; 0 for what suits their number
	random  *rand.Rand

	next     int // where among the nodes the next search starts
	verdicts []plugins.Verdict
	fit      []*snapshot.Node
	raw, sum []int64
}

// rules are all plugins at work on one pod.
type rules struct {
	pod     *snapshot.Pod
	snap    *snapshot.Snapshot
	beside  map[string][]*snapshot.Pod // nominated pods to count as there, by node
	filters []rule
	scores  []rule
	moves   []rule
	reject  string
	rejects plugins.Event
	only    *rule // names the nodes to look at, if not nil
}

type rule struct {
	plugins.Rule
	plugin *plugins.Plugin
}

// diagnosis says why no node will do.
type diagnosis struct {
	rules    *rules
	verdicts []plugins.Verdict // of the snapshot's nodes; valid until the next cycle
	message  string
	helps    plugins.Event
}

func (c *cycle) prepare(pod *snapshot.Pod, snap *snapshot.Snapshot, beside map[string][]*snapshot.Pod) *rules {
	r := &rules{pod: pod, snap: snap, beside: beside}
	for i := range c.plugins {
		p := &c.plugins[i]
		made := rule{Rule: p.Prepare(pod, snap), plugin: p}
		if made.Reject != "" && r.reject == "" {
			r.reject, r.rejects = made.Reject, p.Helps
		}
		if made.Only != nil && r.only == nil {
			r.only = &made
		}
		if made.Filter != nil {
			r.filters = append(r.filters, made)
		}
		if made.Score != nil {
			r.scores = append(r.scores, made)
		}
		if made.Move != nil {
			r.moves = append(r.moves, made)
		}
	}
	return r
}

// choose returns the best node for a pod, or why there is none.
func (c *cycle) choose(pod *snapshot.Pod, snap *snapshot.Snapshot, nominated *nominations) (*snapshot.Node, *diagnosis) {
	if len(snap.Nodes) == 0 {
		return nil, &diagnosis{message: "no nodes available to schedule pods", helps: plugins.NodeAdded}
	}
	r := c.prepare(pod, snap, nominated.beside(pod))
	if r.reject != "" {
		c.verdicts = c.verdicts[:0]
		for range snap.Nodes {
			c.verdicts = append(c.verdicts, plugins.Verdict{Reasons: []string{r.reject}, Final: true})
		}
		return nil, &diagnosis{rules: r, verdicts: c.verdicts, message: unavailable(len(snap.Nodes), r.reject), helps: r.rejects}
	}
	if n := snap.Node(nominated.node(pod.UID)); n != nil {
		if v, _ := r.check(n); v.Fits() {
			return n, nil
		}
	}
	helps := c.search(r)
	if len(c.fit) == 0 {
		return nil, &diagnosis{rules: r, verdicts: c.verdicts, message: unavailable(len(snap.Nodes), tally(c.verdicts)), helps: helps}
	}
	return c.best(r), nil
}

// search fills fit with nodes, starting where the last search ended, until there are enough. If there are none, it
// leaves the verdicts on all, and returns what would help.
func (c *cycle) search(r *rules) (helps plugins.Event) {
	nodes := r.snap.Nodes
	total, enough := len(nodes), sample(len(nodes), c.percent)
	c.fit = c.fit[:0]
	if cap(c.verdicts) < total {
		c.verdicts = make([]plugins.Verdict, total)
	}
	c.verdicts = c.verdicts[:total]
	if r.only != nil {
		return c.searchNamed(r)
	}
	at, looked := c.next%total, 0
	for ; looked < total && len(c.fit) < enough; looked++ {
		v, by := r.check(nodes[at])
		if by == nil {
			c.fit = append(c.fit, nodes[at])
		} else {
			c.verdicts[at] = v
			helps |= by.Helps
		}
		if at++; at == total {
			at = 0
		}
	}
	c.next = at
	return helps
}

// searchNamed is search for a pod that names its nodes.
func (c *cycle) searchNamed(r *rules) (helps plugins.Event) {
	helps = r.only.plugin.Helps
	other := plugins.Verdict{Reasons: []string{"node(s) didn't satisfy plugin(s) [" + r.only.plugin.Name + "]"}, Final: true}
	for i := range c.verdicts {
		c.verdicts[i] = other
	}
	for _, name := range r.only.Only {
		i, known := r.snap.Index(name)
		if !known {
			continue
		}
		v, by := r.check(r.snap.Nodes[i])
		if by == nil {
			c.fit = append(c.fit, r.snap.Nodes[i])
		} else {
			c.verdicts[i] = v
			helps |= by.Helps
		}
	}
	return helps
}

// sample tells how many nodes that fit suffice, of so many; see
// https://kubernetes.io/docs/concepts/scheduling-eviction/scheduler-perf-tuning/.
func sample(nodes, percent int) int {
	const least = 100 // fewer than that are always all looked at
	if nodes <= least || percent >= 100 {
		return nodes
	}
	if percent <= 0 {
		percent = max(5, 50-nodes/125)
	}
	return max(least, nodes*percent/100)
}

// check tells whether the pod fits on a node, and which plugin is against it. Pods that are nominated for the node are
// counted as there, but the pod must fit without them too: it may need them for affinity, and they may never come.
func (r *rules) check(n *snapshot.Node) (plugins.Verdict, *plugins.Plugin) {
	if others := r.beside[n.Name]; len(others) > 0 {
		crowded := n
		for _, p := range others {
			crowded = crowded.AddPod(p)
			r.move(n, p, 1)
		}
		v, by := r.filter(crowded)
		for _, p := range others {
			r.move(n, p, -1)
		}
		if by != nil {
			return v, by
		}
	}
	return r.filter(n)
}

func (r *rules) filter(n *snapshot.Node) (plugins.Verdict, *plugins.Plugin) {
	for i := range r.filters {
		if v := r.filters[i].Filter(n); !v.Fits() {
			return v, r.filters[i].plugin
		}
	}
	return plugins.Verdict{}, nil
}

func (r *rules) move(n *snapshot.Node, p *snapshot.Pod, by int64) {
	for i := range r.moves {
		r.moves[i].Move(n, p, by)
	}
}

// best returns the node of fit with the highest score; among equals any.
func (c *cycle) best(r *rules) *snapshot.Node {
	if len(c.fit) == 1 {
		return c.fit[0]
	}
	c.sum = append(c.sum[:0], make([]int64, len(c.fit))...)
	for i := range r.scores {
		s := &r.scores[i]
		c.raw = c.raw[:0]
		for _, n := range c.fit {
			c.raw = append(c.raw, s.Score(n))
		}
		if s.Normalize != nil {
			s.Normalize(c.raw)
		}
		for k, v := range c.raw {
			c.sum[k] += v * s.plugin.Weight
		}
	}
	chosen, equals := 0, 1
	for i := 1; i < len(c.sum); i++ {
		switch {
		case c.sum[i] > c.sum[chosen]:
			chosen, equals = i, 1
		case c.sum[i] == c.sum[chosen]:
			if equals++; c.random.IntN(equals) == 0 {
				chosen = i
			}
		}
	}
	return c.fit[chosen]
}

// unavailable is the sentence of FailedScheduling.
func unavailable(total int, why string) string {
	return fmt.Sprintf("0/%d nodes are available: %s.", total, why)
}

// tally counts reasons: "1 node(s) had untolerated taint(s), 2 Insufficient cpu".
func tally(verdicts []plugins.Verdict) string {
	counts := map[string]int{}
	for i := 0; i < len(verdicts); {
		same := 1 // most nodes share the verdicts of a few
		for i+same < len(verdicts) && &verdicts[i+same].Reasons[0] == &verdicts[i].Reasons[0] {
			same++
		}
		for _, reason := range verdicts[i].Reasons {
			counts[reason] += same
		}
		i += same
	}
	list := make([]string, 0, len(counts))
	for reason, n := range counts {
		list = append(list, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
