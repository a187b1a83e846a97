// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/scheduler/snapshot"
)

// constraint is one topology spread constraint with the pods counted.
type constraint struct {
	corev1.TopologySpreadConstraint
	term    snapshot.Term
	self    int64 // 1 if the pod counts itself
	counts  changing
	domains map[string]int // that count
	least   int64          // -1 while not known
	weight  float64
}

// podTopologySpread follows spec.topologySpreadConstraints, and spreads the pods of a controller that have none; see
// https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/.
func podTopologySpread(pod *snapshot.Pod, s *snapshot.Snapshot) Rule {
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		return spreadSiblings(pod, s)
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	var hard, soft []*constraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		k := newConstraint(pod, c)
		if k == nil {
			continue
		}
		k.count(pod, required, s)
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, k)
		} else {
			soft = append(soft, k)
		}
	}
	var rule Rule
	if len(hard) > 0 {
		rule.Filter = hardSpread(hard)
		rule.Move = func(n *snapshot.Node, p *snapshot.Pod, by int64) {
			for _, c := range hard {
				c.move(s, pod, required, n, p, by)
			}
		}
	}
	if len(soft) > 0 {
		scoreSpread(&rule, soft)
	}
	return rule
}

func hardSpread(hard []*constraint) func(n *snapshot.Node) Verdict {
	skewed := refuse("node(s) didn't match pod topology spread constraints")
	unlabelled := exclude("node(s) didn't match pod topology spread constraints (missing required label)")
	return func(n *snapshot.Node) Verdict {
		for _, c := range hard {
			value, has := n.Domain(c.TopologyKey)
			if !has {
				return unlabelled
			}
			if c.counts.get(value)+c.self-c.minimum() > int64(c.MaxSkew) {
				return skewed
			}
		}
		return Verdict{}
	}
}

// scoreSpread prefers domains with few matching pods. Keys with many domains weigh more, as a difference of one pod
// says less there.
func scoreSpread(rule *Rule, soft []*constraint) {
	for _, c := range soft {
		c.weight = math.Log(float64(len(c.domains) + 2))
	}
	const ignored = math.MaxInt64 // a node without one of the labels
	rule.Score = func(n *snapshot.Node) int64 {
		score := 0.0
		for _, c := range soft {
			value, has := n.Domain(c.TopologyKey)
			if !has {
				return ignored
			}
			score += float64(c.counts.get(value))*c.weight + float64(c.MaxSkew-1)
		}
		return int64(math.Round(score))
	}
	rule.Normalize = func(scores []int64) { spreadScores(scores, ignored) }
}

// spreadScores gives the least count the best score, and what is ignored none.
func spreadScores(scores []int64, ignored int64) {
	least, greatest := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s != ignored {
			least, greatest = min(least, s), max(greatest, s)
		}
	}
	for i, s := range scores {
		switch {
		case s == ignored:
			scores[i] = 0
		case greatest == 0:
			scores[i] = MaxScore
		default:
			scores[i] = MaxScore * (greatest + least - s) / greatest
		}
	}
}

// spreadSiblings spreads the pods of a controller over nodes and zones, as Kubernetes' default constraints do:
// maxSkew 3 over nodes, 5 over zones, both ScheduleAnyway.
func spreadSiblings(pod *snapshot.Pod, s *snapshot.Snapshot) Rule {
	siblings := s.Siblings(pod.Owner)
	if pod.Owner == "" || siblings == nil {
		return Rule{}
	}
	zones := map[string]int64{}
	for name, count := range siblings.By {
		if n := s.Node(name); n != nil {
			zones[n.Zone] += count
		}
	}
	byNode, byZone := math.Log(float64(len(s.Nodes)+2)), math.Log(float64(len(s.Domains(corev1.LabelTopologyZone))+2))
	return Rule{
		Score: func(n *snapshot.Node) int64 {
			score := float64(siblings.By[n.Name])*byNode + 2
			if n.Zone != "" {
				score += float64(zones[n.Zone])*byZone + 4
			}
			return int64(math.Round(score))
		},
		Normalize: func(scores []int64) { spreadScores(scores, math.MaxInt64) },
	}
}

func newConstraint(pod *snapshot.Pod, c corev1.TopologySpreadConstraint) *constraint {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return nil // validation does not let it in
	}
	selector = snapshot.WithLabels(selector, pod.Labels, c.MatchLabelKeys, true)
	k := &constraint{TopologySpreadConstraint: c, term: snapshot.In(pod.Namespace, selector), least: -1}
	if selector.Matches(labels.Set(pod.Labels)) {
		k.self = 1
	}
	return k
}

// count counts matching pods by domain, over the nodes that count.
func (c *constraint) count(pod *snapshot.Pod, required nodeaffinity.RequiredNodeAffinity, s *snapshot.Snapshot) {
	if everywhere(pod, c) {
		c.domains, c.counts = s.Domains(c.TopologyKey), changing{base: s.Matching(c.TopologyKey, c.term).By}
		return
	}
	matching := s.Matching("", c.term).By
	c.domains, c.counts.base = map[string]int{}, map[string]int64{}
	for _, n := range s.Nodes {
		if value, has := n.Domain(c.TopologyKey); has && c.includes(pod, required, n) {
			c.domains[value]++
			if count := matching[n.Name]; count > 0 {
				c.counts.base[value] += count
			}
		}
	}
}

// everywhere tells whether all nodes that have the label count.
func everywhere(pod *snapshot.Pod, c *constraint) bool {
	affinity := pod.Spec.Affinity
	free := len(pod.Spec.NodeSelector) == 0 && (affinity == nil || affinity.NodeAffinity == nil)
	return (free || c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore) &&
		(c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore)
}

func (c *constraint) move(snap *snapshot.Snapshot, pod *snapshot.Pod, required nodeaffinity.RequiredNodeAffinity, n *snapshot.Node, p *snapshot.Pod, by int64) {
	if value, has := n.Domain(c.TopologyKey); has && c.term.Matches(p, snap) && c.includes(pod, required, n) {
		c.counts.add(value, by)
		c.least = -1
	}
}

// minimum is the least count of a domain; 0 if there are fewer domains than there should be.
func (c *constraint) minimum() int64 {
	if c.least >= 0 {
		return c.least
	}
	c.least = 0
	if len(c.domains) == 0 || c.MinDomains != nil && len(c.domains) < int(*c.MinDomains) {
		return 0
	}
	if len(c.counts.base) < len(c.domains) && len(c.counts.delta) == 0 {
		return 0 // one of them has none
	}
	c.least = math.MaxInt64
	for value := range c.domains {
		c.least = min(c.least, c.counts.get(value))
	}
	return c.least
}

func (c *constraint) includes(pod *snapshot.Pod, required nodeaffinity.RequiredNodeAffinity, n *snapshot.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		for i := range n.Hard {
			if !tolerates(pod.Spec.Tolerations, &n.Hard[i]) {
				return false
			}
		}
	}
	return true
}
