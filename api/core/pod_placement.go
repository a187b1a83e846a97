// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

func validateAffinity(a *corev1.Affinity, at *field.Path) (problems field.ErrorList) {
	if a == nil {
		return nil
	}
	if n := a.NodeAffinity; n != nil {
		at := under(at, "nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			problems = append(problems, ValidateNodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution, under(at, "requiredDuringSchedulingIgnoredDuringExecution"))...)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], nth(under(at, "preferredDuringSchedulingIgnoredDuringExecution"), i)
			problems = append(problems, weight(t.Weight, at)...)
			problems = append(problems, validateNodeTerm(&t.Preference, false, under(at, "preference"))...)
		}
	}
	if p := a.PodAffinity; p != nil {
		problems = append(problems, podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, under(at, "podAffinity"))...)
	}
	if p := a.PodAntiAffinity; p != nil {
		problems = append(problems, podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, under(at, "podAntiAffinity"))...)
	}
	return problems
}

func weight(w int32, at *field.Path) field.ErrorList {
	if w < 1 || w > 100 {
		return field.ErrorList{field.Invalid(at.Child("weight"), w, "must be in the range 1-100")}
	}
	return nil
}

// ValidateNodeSelector checks the terms that a node must meet one of.
func ValidateNodeSelector(s *corev1.NodeSelector, at *field.Path) (problems field.ErrorList) {
	at = under(at, "nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	for i := range s.NodeSelectorTerms {
		problems = append(problems, validateNodeTerm(&s.NodeSelectorTerms[i], true, nth(at, i))...)
	}
	return problems
}

func validateNodeTerm(t *corev1.NodeSelectorTerm, required bool, at *field.Path) (problems field.ErrorList) {
	for i := range t.MatchExpressions {
		problems = append(problems, validateNodeRequirement(&t.MatchExpressions[i], required, nth(under(at, "matchExpressions"), i))...)
	}
	for i := range t.MatchFields {
		problems = append(problems, validateNodeField(&t.MatchFields[i], nth(under(at, "matchFields"), i))...)
	}
	return problems
}

func validateNodeRequirement(r *corev1.NodeSelectorRequirement, required bool, at *field.Path) (problems field.ErrorList) {
	values := under(at, "values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			problems = append(problems, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			problems = append(problems, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			problems = append(problems, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		problems = append(problems, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	problems = append(problems, metavalidation.ValidateLabelName(r.Key, under(at, "key"))...)
	for i, v := range r.Values {
		if !required {
			break // Kubernetes takes any value of what is only preferred
		}
		for _, m := range validation.IsValidLabelValue(v) {
			problems = append(problems, field.Invalid(values.Index(i), v, m))
		}
	}
	return problems
}

func validateNodeField(r *corev1.NodeSelectorRequirement, at *field.Path) (problems field.ErrorList) {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			problems = append(problems, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		problems = append(problems, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(problems, field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		for _, m := range apivalidation.NameIsDNSSubdomain(v, false) {
			problems = append(problems, field.Invalid(at.Child("values").Index(i), v, m))
		}
	}
	return problems
}

func podTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) (problems field.ErrorList) {
	for i := range required {
		problems = append(problems, validatePodTerm(&required[i], nth(under(at, "requiredDuringSchedulingIgnoredDuringExecution"), i))...)
	}
	for i := range preferred {
		at := nth(under(at, "preferredDuringSchedulingIgnoredDuringExecution"), i)
		problems = append(problems, weight(preferred[i].Weight, at)...)
		problems = append(problems, validatePodTerm(&preferred[i].PodAffinityTerm, under(at, "podAffinityTerm"))...)
	}
	return problems
}

func validatePodTerm(t *corev1.PodAffinityTerm, at *field.Path) field.ErrorList {
	options := metavalidation.LabelSelectorValidationOptions{}
	problems := metavalidation.ValidateLabelSelector(t.LabelSelector, options, under(at, "labelSelector"))
	problems = append(problems, metavalidation.ValidateLabelSelector(t.NamespaceSelector, options, under(at, "namespaceSelector"))...)
	for _, name := range t.Namespaces {
		for _, m := range apivalidation.ValidateNamespaceName(name, false) {
			problems = append(problems, field.Invalid(at.Child("namespace"), name, m))
		}
	}
	problems = append(problems, matchLabelKeys(t.MatchLabelKeys, t.LabelSelector, under(at, "matchLabelKeys"))...)
	problems = append(problems, matchLabelKeys(t.MismatchLabelKeys, t.LabelSelector, under(at, "mismatchLabelKeys"))...)
	for i, key := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, key) {
			problems = append(problems, field.Invalid(at.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	if t.TopologyKey == "" {
		problems = append(problems, field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	return append(problems, metavalidation.ValidateLabelName(t.TopologyKey, under(at, "topologyKey"))...)
}

func matchLabelKeys(keys []string, selector *metav1.LabelSelector, at *field.Path) (problems field.ErrorList) {
	if len(keys) == 0 {
		return nil
	}
	if selector == nil {
		return field.ErrorList{field.Forbidden(at, "must not be specified when labelSelector is not set")}
	}
	for i, key := range keys {
		problems = append(problems, metavalidation.ValidateLabelName(key, nth(at, i))...)
	}
	return problems
}

func validateSpread(list []corev1.TopologySpreadConstraint, all *field.Path) (problems field.ErrorList) {
	for i := range list {
		c, at := &list[i], nth(all, i)
		if c.MaxSkew <= 0 {
			problems = append(problems, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			problems = append(problems, field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		problems = append(problems, allowed(under(at, "whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		for _, other := range list[i+1:] {
			if other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable {
				problems = append(problems, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
			}
		}
		if d := c.MinDomains; d != nil {
			if *d <= 0 {
				problems = append(problems, field.Invalid(at.Child("minDomains"), *d, "must be greater than zero"))
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				problems = append(problems, field.Invalid(at.Child("minDomains"), *d,
					fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
			}
		}
		for _, p := range []struct {
			name   string
			policy *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", c.NodeAffinityPolicy}, {"nodeTaintsPolicy", c.NodeTaintsPolicy}} {
			if p.policy != nil {
				problems = append(problems, allowed(under(at, p.name), *p.policy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
			}
		}
		problems = append(problems, matchLabelKeys(c.MatchLabelKeys, c.LabelSelector, under(at, "matchLabelKeys"))...)
		problems = append(problems, metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, under(at, "labelSelector"))...)
	}
	return problems
}

func validateTolerations(list []corev1.Toleration, path *field.Path) (problems field.ErrorList) {
	for i, t := range list {
		at := nth(path, i)
		if t.Key != "" && !resource.IsQualifiedName(t.Key) {
			problems = append(problems, metavalidation.ValidateLabelName(t.Key, under(at, "key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			problems = append(problems, field.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			problems = append(problems, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			for _, m := range validation.IsValidLabelValue(t.Value) {
				problems = append(problems, field.Invalid(at.Child("operator"), t.Value, m))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				problems = append(problems, field.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			known := []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}
			if t.Operator == corev1.TolerationOpLt || t.Operator == corev1.TolerationOpGt { // known, but not on by default
				known = append(known, corev1.TolerationOpLt, corev1.TolerationOpGt)
			}
			problems = append(problems, field.NotSupported(at.Child("operator"), t.Operator, known))
		}
		if t.Effect != "" {
			problems = append(problems, allowed(under(at, "effect"), t.Effect,
				corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		}
	}
	return problems
}

func validateSchedulingGates(gates []corev1.PodSchedulingGate, at *field.Path) (problems field.ErrorList) {
	seen := sets.New[string]()
	for i, g := range gates {
		at := nth(at, i)
		if seen.Has(g.Name) {
			problems = append(problems, field.Duplicate(at, g.Name))
		}
		seen.Insert(g.Name)
		for _, m := range validation.IsQualifiedName(g.Name) {
			problems = append(problems, field.Invalid(at, g.Name, m))
		}
	}
	return problems
}
