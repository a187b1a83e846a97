// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"strings"
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
	PrepareCreate:  func(p *schedulingv1.PriorityClass) { p.Generation = 1 },
	PrepareUpdate:  func(p, old *schedulingv1.PriorityClass) { p.Generation = old.Generation },
	ValidateCreate: validatePriorityClass,
	ValidateUpdate: func(p, old *schedulingv1.PriorityClass) field.ErrorList {
		var problems field.ErrorList
		if p.Value != old.Value {
			problems = append(problems, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(problems, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	},
	Columns: []resource.Column[schedulingv1.PriorityClass]{
		{Name: "Value", Type: "integer", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return int64(p.Value) }},
		{Name: "Global-Default", Type: "boolean", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return p.GlobalDefault }},
		{Name: "Age", Value: func(p *schedulingv1.PriorityClass, now time.Time) any {
			return duration.HumanDuration(now.Sub(p.CreationTimestamp.Time))
		}},
		{Name: "PreemptionPolicy", Value: func(p *schedulingv1.PriorityClass, _ time.Time) any { return string(*p.PreemptionPolicy) }},
	},
	StoragePath: "priorityclasses",
}), func() runtime.Object { return new(schedulingv1.PriorityClassList) })

// What users' classes may have at most, and the two above that Kubernetes has itself; see
// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/.
const (
	userPriorityMax       = 1000000000
	systemPriority        = 2 * userPriorityMax
	systemNodePriorityAdd = 1000
)

func validatePriorityClass(p *schedulingv1.PriorityClass) (problems field.ErrorList) {
	if strings.HasPrefix(p.Name, "system-") {
		if why := systemClassProblem(p); why != "" {
			problems = append(problems, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with 'system-' prefix are reserved for system use only. error: "+why))
		}
	} else if p.Value > userPriorityMax {
		problems = append(problems, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", userPriorityMax)))
	}
	switch policy := p.PreemptionPolicy; {
	case policy == nil:
	case *policy == "":
		problems = append(problems, field.Required(field.NewPath("preemptionPolicy"), ""))
	case *policy != corev1.PreemptLowerPriority && *policy != corev1.PreemptNever:
		problems = append(problems, field.NotSupported(field.NewPath("preemptionPolicy"), *policy,
			[]corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
	}
	return problems
}

func systemClassProblem(p *schedulingv1.PriorityClass) string {
	value, known := map[string]int32{
		"system-cluster-critical": systemPriority, "system-node-critical": systemPriority + systemNodePriorityAdd,
	}[p.Name]
	switch {
	case !known:
		return p.Name + " is not a known system priority class"
	case p.Value != value:
		return fmt.Sprintf("value of %s PriorityClass must be %d", p.Name, value)
	case p.GlobalDefault:
		return fmt.Sprintf("globalDefault of %s PriorityClass must be false", p.Name)
	}
	return ""
}
