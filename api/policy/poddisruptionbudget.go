// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// PodDisruptionBudgets bound how many pods of a set evictions may take down at once.
var PodDisruptionBudgets = resource.WithList(resource.Define(resource.Definition[policyv1.PodDisruptionBudget]{
	Group: "policy", Version: "v1", Kind: "PodDisruptionBudget", Resource: "poddisruptionbudgets",
	ShortNames:    []string{"pdb"},
	Scope:         resource.Namespaced,
	StoragePath:   "poddisruptionbudgets",
	Name:          path.ValidatePathSegmentName,
	NeedsRevision: true,
	PrepareCreate: func(b *policyv1.PodDisruptionBudget) {
		b.Status = policyv1.PodDisruptionBudgetStatus{}
		b.Generation = 1
	},
	PrepareUpdate: func(b, old *policyv1.PodDisruptionBudget) {
		b.Status, b.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(b.Spec, old.Spec) {
			b.Generation++
		}
	},
	Validate: validateBudget,
	Columns: []resource.Column[policyv1.PodDisruptionBudget]{
		{Name: "Min Available", Description: "The minimum number of pods that must be available.", Value: func(b *policyv1.PodDisruptionBudget, _ time.Time) any { return amount(b.Spec.MinAvailable) }},
		{Name: "Max Unavailable", Description: "The maximum number of pods that may be unavailable.", Value: func(b *policyv1.PodDisruptionBudget, _ time.Time) any { return amount(b.Spec.MaxUnavailable) }},
		{Name: "Allowed Disruptions", Type: "integer", Description: "Calculated number of pods that may be disrupted at this time.", Value: func(b *policyv1.PodDisruptionBudget, _ time.Time) any { return int64(b.Status.DisruptionsAllowed) }},
	},
	Subresources: resource.Subresources[policyv1.PodDisruptionBudget]{
		Status: &resource.Status[policyv1.PodDisruptionBudget]{Prepare: func(obj, old *policyv1.PodDisruptionBudget) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: func(obj, _ *policyv1.PodDisruptionBudget) field.ErrorList { return validateStatus(&obj.Status) }},
	},
}), func() runtime.Object { return new(policyv1.PodDisruptionBudgetList) })

func amount(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	s, at := &b.Spec, field.NewPath("spec")
	var problems field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		problems = append(problems, field.Invalid(at, core.Shown(s), "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, f := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if f.value != nil {
			problems = append(problems, core.CountOrPercent(f.value, at.Child(f.name))...)
			problems = append(problems, core.AtMostAll(f.value, at.Child(f.name))...)
		}
	}
	problems = append(problems, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	switch p := s.UnhealthyPodEvictionPolicy; {
	case p == nil:
	case *p != policyv1.AlwaysAllow && *p != policyv1.IfHealthyBudget:
		problems = append(problems, field.NotSupported(at.Child("unhealthyPodEvictionPolicy"), *p,
			[]policyv1.UnhealthyPodEvictionPolicyType{policyv1.AlwaysAllow, policyv1.IfHealthyBudget}))
	}
	return problems
}

func validateStatus(s *policyv1.PodDisruptionBudgetStatus) field.ErrorList {
	at := field.NewPath("status")
	problems := metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy},
		{"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods},
	} {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(f.value), at.Child(f.name))...)
	}
	return problems
}
