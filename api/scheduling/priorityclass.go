// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// PriorityClasses name pod priorities.
var PriorityClasses = resource.WithList(resource.Define(resource.Definition[schedulingv1.PriorityClass]{
	Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass", Resource: "priorityclasses",
	ShortNames: []string{"pc"},
	Scope:      resource.Cluster,
	Default: func(p *schedulingv1.PriorityClass) {
		if p.PreemptionPolicy == nil {
			policy := corev1.PreemptLowerPriority
			p.PreemptionPolicy = &policy
		}
	},
	PrepareCreate: func(p *schedulingv1.PriorityClass) { p.Generation = 1 },
	PrepareUpdate: func(p, old *schedulingv1.PriorityClass) { p.Generation = old.Generation },
	ValidateUpdate: func(p, old *schedulingv1.PriorityClass) field.ErrorList {
		var problems field.ErrorList
		if p.Value != old.Value {
			problems = append(problems, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(problems, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	},
	Columns: []resource.Column[schedulingv1.PriorityClass]{
		{Name: "Value", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return int64(p.Value) }},
		{Name: "Global-Default", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return p.GlobalDefault }},
		{Name: "Age", Value: func(p *schedulingv1.PriorityClass, now time.Time) any {
			return duration.HumanDuration(now.Sub(p.CreationTimestamp.Time))
		}},
		{Name: "PreemptionPolicy", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return string(*p.PreemptionPolicy) }},
	},
	StoragePath: "priorityclasses",
}), func() runtime.Object { return new(schedulingv1.PriorityClassList) })
