// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/scheduler/snapshot"
)

// term is a pod affinity term, ready to match.
type term struct {
	namespaces []string
	everywhere bool
	selector   labels.Selector
	key        string
	weight     int64
}

func newTerm(owner *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) (term, bool) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return term{}, false // validation does not let it in
	}
	out := term{namespaces: t.Namespaces, selector: withLabels(selector, owner.Labels, t.MatchLabelKeys), key: t.TopologyKey, weight: weight}
	if t.NamespaceSelector != nil {
		// An empty selector is all namespaces; others need the labels of namespaces, which the snapshot does not have.
		out.everywhere = len(t.NamespaceSelector.MatchLabels)+len(t.NamespaceSelector.MatchExpressions) == 0
	}
	if len(out.namespaces) == 0 && t.NamespaceSelector == nil {
		out.namespaces = []string{owner.Namespace}
	}
	return out, true
}

func (t *term) matches(p *corev1.Pod) bool {
	return (t.everywhere || slices.Contains(t.namespaces, p.Namespace)) && t.selector.Matches(labels.Set(p.Labels))
}

func terms(owner *corev1.Pod, list []corev1.PodAffinityTerm) (out []term) {
	for i := range list {
		if t, ok := newTerm(owner, &list[i], 1); ok {
			out = append(out, t)
		}
	}
	return out
}

func weighted(owner *corev1.Pod, list []corev1.WeightedPodAffinityTerm, sign int64) (out []term) {
	for i := range list {
		if t, ok := newTerm(owner, &list[i].PodAffinityTerm, sign*int64(list[i].Weight)); ok {
			out = append(out, t)
		}
	}
	return out
}

func required(p *corev1.Pod) (with, without []term) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			with = terms(p, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			without = terms(p, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
	}
	return with, without
}

func preferred(p *corev1.Pod) (out []term) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			out = weighted(p, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			out = append(out, weighted(p, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
		}
	}
	return out
}

// domain is a value of a topology key.
type domain struct{ key, value string }

// interPodAffinity follows pod affinity and anti-affinity, the pod's own and that of pods that are there already.
func interPodAffinity(pod *snapshot.Pod, nodes []*snapshot.Node) Rule {
	with, without := required(pod.Pod)
	soft := preferred(pod.Pod)
	affine := slices.ContainsFunc(nodes, func(n *snapshot.Node) bool { return len(n.Affine) > 0 })
	if len(with)+len(without)+len(soft) == 0 && !affine {
		return Rule{}
	}
	present := make([]map[string]int64, len(with)) // by term: pods by domain
	for i := range present {
		present[i] = map[string]int64{}
	}
	near, refused, scores := map[domain]bool{}, map[domain]bool{}, map[domain]int64{}
	for _, n := range nodes {
		if len(with)+len(without)+len(soft) > 0 {
			for _, p := range n.Pods {
				countOwn(n, p, with, present, without, near, soft, scores)
			}
		}
		for _, p := range n.Affine {
			countOthers(n, p, pod, refused, scores)
		}
	}
	rule := Rule{Filter: func(n *snapshot.Node) Verdict {
		for key, value := range n.Labels {
			if refused[domain{key, value}] {
				return refuse("node(s) didn't satisfy existing pods anti-affinity rules")
			}
		}
		for i := range without {
			if value, has := n.Labels[without[i].key]; has && near[domain{without[i].key, value}] {
				return refuse("node(s) didn't match pod anti-affinity rules")
			}
		}
		if !affinityHolds(pod, n, with, present) {
			return exclude("node(s) didn't match pod affinity rules")
		}
		return Verdict{}
	}}
	if len(scores) > 0 {
		rule.Score = func(n *snapshot.Node) (sum int64) {
			for key, value := range n.Labels {
				sum += scores[domain{key, value}]
			}
			return sum
		}
		rule.Normalize = func(all []int64) { spread(all, false) }
	}
	return rule
}

// countOwn counts a pod that is there for the terms of the pod to place.
func countOwn(n *snapshot.Node, p *snapshot.Pod, with []term, present []map[string]int64, without []term, near map[domain]bool, soft []term, scores map[domain]int64) {
	for i := range with {
		if value, has := n.Labels[with[i].key]; has && with[i].matches(p.Pod) {
			present[i][value]++
		}
	}
	for i := range without {
		if value, has := n.Labels[without[i].key]; has && without[i].matches(p.Pod) {
			near[domain{without[i].key, value}] = true
		}
	}
	for i := range soft {
		if value, has := n.Labels[soft[i].key]; has && soft[i].matches(p.Pod) {
			scores[domain{soft[i].key, value}] += soft[i].weight
		}
	}
}

// countOthers notes what the terms of a pod that is there say of the pod to place.
func countOthers(n *snapshot.Node, p, pod *snapshot.Pod, refused map[domain]bool, scores map[domain]int64) {
	theirWith, theirWithout := required(p.Pod)
	for i := range theirWithout {
		if value, has := n.Labels[theirWithout[i].key]; has && theirWithout[i].matches(pod.Pod) {
			refused[domain{theirWithout[i].key, value}] = true
		}
	}
	for _, t := range append(preferred(p.Pod), theirWith...) { // a required affinity of theirs counts as a preference of weight 1
		if value, has := n.Labels[t.key]; has && t.matches(pod.Pod) {
			scores[domain{t.key, value}] += t.weight
		}
	}
}

// affinityHolds tells whether each term finds a pod in the node's domain. The first pod of a group may go anywhere.
func affinityHolds(pod *snapshot.Pod, n *snapshot.Node, with []term, present []map[string]int64) bool {
	missing, nobody := false, true
	for i := range with {
		value, has := n.Labels[with[i].key]
		if !has {
			return false
		}
		missing = missing || present[i][value] == 0
		nobody = nobody && len(present[i]) == 0 && with[i].matches(pod.Pod)
	}
	return !missing || nobody
}
