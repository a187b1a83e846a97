// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Term is a pod affinity term, ready to match.
type Term struct {
	namespaces []string
	among      labels.Selector // of namespaces; nil for none
	selector   labels.Selector
	living     bool // speaks only of pods that are not about to end
	match, id  string
	// Key is the topology key.
	Key string
	// Weight is negative for anti-affinity.
	Weight int64
}

// Matches tells whether the term speaks of a pod.
func (t *Term) Matches(p *Pod, s *Snapshot) bool {
	if !slices.Contains(t.namespaces, p.Namespace) && (t.among == nil || !t.among.Empty() && !t.among.Matches(s.Namespace(p.Namespace))) {
		return false
	}
	return t.selector.Matches(labels.Set(p.Labels)) && !(t.living && p.DeletionTimestamp != nil)
}

// Same tells whether two terms say the same.
func (t *Term) Same(o *Term) bool { return t.id == o.id }

func terms(p *corev1.Pod) (with, without, prefer []Term) {
	if a := p.Spec.Affinity.PodAffinity; a != nil {
		with = appendTerms(with, p, a.RequiredDuringSchedulingIgnoredDuringExecution)
		prefer = appendWeighted(prefer, p, a.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a := p.Spec.Affinity.PodAntiAffinity; a != nil {
		without = appendTerms(without, p, a.RequiredDuringSchedulingIgnoredDuringExecution)
		prefer = appendWeighted(prefer, p, a.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return with, without, prefer
}

func appendTerms(list []Term, p *corev1.Pod, from []corev1.PodAffinityTerm) []Term {
	for i := range from {
		if t, ok := newTerm(p, &from[i], 1); ok {
			list = append(list, t)
		}
	}
	return list
}

func appendWeighted(list []Term, p *corev1.Pod, from []corev1.WeightedPodAffinityTerm, sign int64) []Term {
	for i := range from {
		if t, ok := newTerm(p, &from[i].PodAffinityTerm, sign*int64(from[i].Weight)); ok {
			list = append(list, t)
		}
	}
	return list
}

func newTerm(owner *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) (Term, bool) {
	selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return Term{}, false // validation does not let it in
	}
	selector = WithLabels(selector, owner.Labels, t.MatchLabelKeys, true)
	selector = WithLabels(selector, owner.Labels, t.MismatchLabelKeys, false)
	out := Term{namespaces: t.Namespaces, selector: selector, Key: t.TopologyKey, Weight: weight}
	if t.NamespaceSelector != nil {
		if out.among, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return Term{}, false
		}
	}
	if len(out.namespaces) == 0 && t.NamespaceSelector == nil {
		out.namespaces = []string{owner.Namespace}
	}
	out.identify()
	return out, true
}

// WithLabels narrows a selector to a pod's own values of keys, or to others than those.
func WithLabels(selector labels.Selector, own map[string]string, keys []string, equal bool) labels.Selector {
	for _, key := range keys {
		value, has := own[key]
		if !has {
			continue
		}
		operator := "="
		if !equal {
			operator = "!="
		}
		more, err := labels.ParseToRequirements(key + operator + value)
		if err == nil {
			selector = selector.Add(more...)
		}
	}
	return selector
}
