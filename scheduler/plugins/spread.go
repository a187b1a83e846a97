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
	selector labels.Selector
	self     int64 // 1 if the pod counts itself
	counts   map[string]int64
	least    int64
}

// podTopologySpread follows spec.topologySpreadConstraints; see
// https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/.
func podTopologySpread(pod *snapshot.Pod, nodes []*snapshot.Node) Rule {
	var hard, soft []*constraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		k := newConstraint(pod, c)
		if k == nil {
			continue
		}
		k.count(pod, nodes)
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, k)
		} else {
			soft = append(soft, k)
		}
	}
	var rule Rule
	if len(hard) > 0 {
		rule.Filter = func(n *snapshot.Node) Verdict {
			for _, c := range hard {
				value, has := n.Labels[c.TopologyKey]
				if !has {
					return exclude("node(s) didn't match pod topology spread constraints (missing required label)")
				}
				if c.counts[value]+c.self-c.least > int64(c.MaxSkew) {
					return refuse("node(s) didn't match pod topology spread constraints")
				}
			}
			return Verdict{}
		}
	}
	if len(soft) > 0 {
		rule.Score = func(n *snapshot.Node) int64 {
			score := 0.0
			for _, c := range soft {
				value, has := n.Labels[c.TopologyKey]
				if !has {
					return math.MaxInt32
				}
				score += float64(c.counts[value])*math.Log(float64(len(c.counts)+2)) + float64(c.MaxSkew-1)
			}
			return int64(math.Round(score))
		}
		rule.Normalize = func(scores []int64) { spread(scores, true) }
	}
	return rule
}

func newConstraint(pod *snapshot.Pod, c corev1.TopologySpreadConstraint) *constraint {
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return nil // validation does not let it in
	}
	selector = withLabels(selector, pod.Labels, c.MatchLabelKeys)
	k := &constraint{TopologySpreadConstraint: c, selector: selector, counts: map[string]int64{}}
	if selector.Matches(labels.Set(pod.Labels)) {
		k.self = 1
	}
	return k
}

// withLabels adds the pod's own values of keys to a selector.
func withLabels(selector labels.Selector, own map[string]string, keys []string) labels.Selector {
	for _, key := range keys {
		if value, has := own[key]; has {
			if more, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements(); selector != nil {
				selector = selector.Add(more...)
			}
		}
	}
	return selector
}

// count counts matching pods by domain, over the nodes that count.
func (c *constraint) count(pod *snapshot.Pod, nodes []*snapshot.Node) {
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	for _, n := range nodes {
		value, has := n.Labels[c.TopologyKey]
		if !has || !c.includes(pod, required, n) {
			continue
		}
		c.counts[value] += 0
		for _, p := range n.Pods {
			if p.Namespace == pod.Namespace && p.DeletionTimestamp == nil && c.selector.Matches(labels.Set(p.Labels)) {
				c.counts[value]++
			}
		}
	}
	c.least = math.MaxInt64
	for _, n := range c.counts {
		c.least = min(c.least, n)
	}
	if len(c.counts) == 0 || c.MinDomains != nil && len(c.counts) < int(*c.MinDomains) {
		c.least = 0
	}
}

func (c *constraint) includes(pod *snapshot.Pod, required nodeaffinity.RequiredNodeAffinity, n *snapshot.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		for i := range n.Spec.Taints {
			if t := &n.Spec.Taints[i]; t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, t) {
				return false
			}
		}
	}
	return true
}
