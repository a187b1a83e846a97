// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// candidate is a node on which a pod would fit without some pods of lower priority.
type candidate struct {
	node    *snapshot.Node
	victims []*snapshot.Pod // the most important first
}

// What is said of nodes on which preemption does not help.
const (
	noHelp    = "Preemption is not helpful for scheduling"
	noVictims = "No preemption victims found for incoming pod"
)

// preempt finds the node where the least harm makes room for a pod that fits nowhere, or says why there is none. See
// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/.
func (c *cycle) preempt(d *diagnosis, nominated string) (*candidate, string) {
	r := d.rules
	if why := ineligible(d, nominated); why != "" {
		return nil, why
	}
	nodes := r.snap.Nodes
	results := make([]plugins.Verdict, len(nodes))
	inVain, nobody := plugins.Verdict{Reasons: []string{noHelp}}, plugins.Verdict{Reasons: []string{noVictims}}
	found, enough := []*candidate(nil), max(100, len(nodes)/10)
	for i := range nodes {
		at := (c.next + i) % len(nodes)
		if d.verdicts[at].Final {
			results[at] = inVain
			continue
		}
		if nodes[at].Lowest >= r.pod.Rank {
			results[at] = nobody
			continue
		}
		victims, v := r.victims(nodes[at])
		if len(victims) == 0 {
			if results[at] = v; v.Fits() {
				results[at] = nobody
			}
			continue
		}
		if found = append(found, &candidate{node: nodes[at], victims: victims}); len(found) >= enough {
			break
		}
	}
	if len(found) == 0 {
		return nil, unavailable(len(nodes), tally(results))
	}
	return slices.MinFunc(found, lessHarm), ""
}

// ineligible tells why a pod may not preempt.
func ineligible(d *diagnosis, nominated string) string {
	pod, snap := d.rules.pod, d.rules.snap
	if policy := pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	if i, known := snap.Index(nominated); known && !d.verdicts[i].Final && terminating(snap.Nodes[i], pod) {
		return "not eligible due to a terminating pod on the nominated node."
	}
	return ""
}

// terminating tells whether a pod of lower priority is about to leave the node.
func terminating(n *snapshot.Node, pod *snapshot.Pod) bool {
	return slices.ContainsFunc(n.Pods, func(p *snapshot.Pod) bool { return p.DeletionTimestamp != nil && p.Rank < pod.Rank })
}

// victims are the pods that must leave a node for the pod to fit; none if that does not help, and why. There must be pods of
// lower priority.
func (r *rules) victims(n *snapshot.Node) ([]*snapshot.Pod, plugins.Verdict) {
	var lower []*snapshot.Pod
	left := n.Keep(func(p *snapshot.Pod) bool { return p.Rank >= r.pod.Rank })
	for _, p := range n.Pods {
		if p.Rank < r.pod.Rank {
			lower = append(lower, p)
			r.move(n, p, -1)
		}
	}
	if v, by := r.check(left); by != nil {
		for _, p := range lower {
			r.move(n, p, 1)
		}
		return nil, v
	}
	slices.SortStableFunc(lower, byImportance)
	var victims []*snapshot.Pod
	for _, p := range lower { // as many as possible may stay, the most important first
		r.move(n, p, 1)
		if more := left.AddPod(p); fine(r, more) {
			left = more
			continue
		}
		r.move(n, p, -1)
		victims = append(victims, p)
	}
	for _, p := range victims {
		r.move(n, p, 1)
	}
	return victims, plugins.Verdict{}
}

func fine(r *rules, n *snapshot.Node) bool {
	_, by := r.check(n)
	return by == nil
}

// byImportance orders pods: higher priority first, then those that have run for longer.
func byImportance(a, b *snapshot.Pod) int {
	if a.Rank != b.Rank {
		return cmp.Compare(b.Rank, a.Rank)
	}
	return started(a).Compare(started(b))
}

func started(p *snapshot.Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return p.CreationTimestamp.Time
}

// lessHarm orders candidates: the lowest highest priority of a victim, the least sum of priorities, the fewest
// victims, the one whose most important victim started last.
func lessHarm(a, b *candidate) int {
	sum := func(c *candidate) (sum int64) {
		for _, p := range c.victims {
			sum += int64(p.Rank) + 1<<31 // so that several of negative priority weigh more than one
		}
		return sum
	}
	return cmp.Or(
		cmp.Compare(a.victims[0].Rank, b.victims[0].Rank),
		cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.victims), len(b.victims)),
		started(b.victims[0]).Compare(started(a.victims[0])),
	)
}
