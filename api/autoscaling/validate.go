// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// Limits of the behaviour, in seconds.
const (
	periodMax        = 1800
	stabilizationMax = 3600
)

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	s, at := &h.Spec, field.NewPath("spec")
	var problems field.ErrorList
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		problems = append(problems, field.Invalid(at.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1"))
	}
	switch {
	case s.MaxReplicas < 0:
		problems = append(problems, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1"))
	case s.MaxReplicas == 0:
		problems = append(problems, field.Required(at.Child("maxReplicas"), "must be set and greater than 0"))
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		problems = append(problems, field.Invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	problems = append(problems, validateTarget(s.ScaleTargetRef, at.Child("scaleTargetRef"))...)
	problems = append(problems, validateMetrics(s.Metrics, s.MinReplicas, at.Child("metrics"))...)
	if b := s.Behavior; b != nil {
		problems = append(problems, validateRules(b.ScaleUp, at.Child("behavior", "scaleUp"))...)
		problems = append(problems, validateRules(b.ScaleDown, at.Child("behavior", "scaleDown"))...)
	}
	return problems
}

func segment(value, missing string, at *field.Path) (problems field.ErrorList) {
	if value == "" {
		return field.ErrorList{field.Required(at, missing)}
	}
	for _, m := range path.IsValidPathSegmentName(value) {
		problems = append(problems, field.Invalid(at, value, m))
	}
	return problems
}

func validateReference(r autoscalingv2.CrossVersionObjectReference, at *field.Path) (group schema.GroupVersion, problems field.ErrorList) {
	problems = segment(r.Kind, "", at.Child("kind"))
	problems = append(problems, segment(r.Name, "", at.Child("name"))...)
	group, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		problems = append(problems, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	return group, problems
}

// validateTarget checks what is scaled, which has a group unless it is a replication controller.
func validateTarget(r autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	gv, problems := validateReference(r, at)
	_, err := schema.ParseGroupVersion(r.APIVersion)
	if err == nil && gv.Group == "" && (r.Kind != "ReplicationController" || r.APIVersion != "v1") {
		problems = append(problems, field.Invalid(at.Child("apiVersion"), r.APIVersion, "apiVersion must specify API group"))
	}
	return problems
}

func validateMetrics(specs []autoscalingv2.MetricSpec, minReplicas *int32, all *field.Path) (problems field.ErrorList) {
	scalesFromZero := false
	for i := range specs {
		problems = append(problems, validateMetric(&specs[i], all.Index(i))...)
		scalesFromZero = scalesFromZero || specs[i].Type == autoscalingv2.ObjectMetricSourceType || specs[i].Type == autoscalingv2.ExternalMetricSourceType
	}
	if minReplicas != nil && *minReplicas == 0 && !scalesFromZero {
		problems = append(problems, field.Forbidden(all, "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	return problems
}

func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) (problems field.ErrorList) {
	known := []autoscalingv2.MetricSourceType{
		autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
		autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
	}
	if m.Type == "" {
		problems = append(problems, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	if !slices.Contains(known, m.Type) {
		problems = append(problems, field.NotSupported(at.Child("type"), m.Type, known))
	}
	sources := []struct {
		name  string
		kind  autoscalingv2.MetricSourceType
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{"object", autoscalingv2.ObjectMetricSourceType, m.Object != nil, func(at *field.Path) field.ErrorList { return validateObjectMetric(m.Object, at) }},
		{"external", autoscalingv2.ExternalMetricSourceType, m.External != nil, func(at *field.Path) field.ErrorList { return validateExternalMetric(m.External, at) }},
		{"pods", autoscalingv2.PodsMetricSourceType, m.Pods != nil, func(at *field.Path) field.ErrorList { return validatePodsMetric(m.Pods, at) }},
		{"resource", autoscalingv2.ResourceMetricSourceType, m.Resource != nil, func(at *field.Path) field.ErrorList {
			return validateResourceMetric(string(m.Resource.Name), &m.Resource.Target, at)
		}},
		{"containerResource", autoscalingv2.ContainerResourceMetricSourceType, m.ContainerResource != nil, func(at *field.Path) field.ErrorList {
			return validateContainerMetric(m.ContainerResource, at)
		}},
	}
	first := true
	for _, s := range sources { // only the first one given is looked into
		if s.set && first {
			problems = append(problems, s.check(at.Child(s.name))...)
			first = false
		}
	}
	if !slices.Contains(known, m.Type) {
		return append(problems, field.NotSupported(at.Child("type"), m.Type, known))
	}
	for _, s := range sources {
		if s.kind == m.Type && !s.set {
			return append(problems, field.Required(at.Child(s.name), "must populate information for the given metric source"))
		}
	}
	for _, s := range sources {
		if s.kind != m.Type && s.set {
			problems = append(problems, field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
	}
	return problems
}

func validateAmounts(t *autoscalingv2.MetricTarget, at *field.Path) (problems field.ErrorList) {
	if t.Type == "" {
		problems = append(problems, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		problems = append(problems, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	for _, f := range []struct {
		name  string
		value *resource.Quantity
	}{{"value", t.Value}, {"averageValue", t.AverageValue}} {
		if f.value != nil && f.value.Sign() != 1 {
			problems = append(problems, field.Invalid(at.Child(f.name), f.value, "must be positive"))
		}
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		problems = append(problems, field.Invalid(at.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return problems
}

func validateObjectMetric(m *autoscalingv2.ObjectMetricSource, at *field.Path) field.ErrorList {
	_, problems := validateReference(m.DescribedObject, at.Child("describedObject"))
	problems = append(problems, segment(m.Metric.Name, "must specify a metric name", at.Child("metric", "name"))...)
	problems = append(problems, validateAmounts(&m.Target, at.Child("target"))...)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		problems = append(problems, field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return problems
}

func validateExternalMetric(m *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	problems := segment(m.Metric.Name, "must specify a metric name", at.Child("metric", "name"))
	problems = append(problems, validateAmounts(&m.Target, at.Child("target"))...)
	switch value, average := m.Target.Value != nil, m.Target.AverageValue != nil; {
	case !value && !average:
		problems = append(problems, field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case value && average:
		problems = append(problems, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return problems
}

func validatePodsMetric(m *autoscalingv2.PodsMetricSource, at *field.Path) field.ErrorList {
	problems := segment(m.Metric.Name, "must specify a metric name", at.Child("metric", "name"))
	problems = append(problems, validateAmounts(&m.Target, at.Child("target"))...)
	if m.Target.AverageValue == nil || m.Target.AverageValue.Sign() != 1 && len(problems) == 0 {
		problems = append(problems, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return problems
}

func validateResourceMetric(name string, t *autoscalingv2.MetricTarget, at *field.Path) (problems field.ErrorList) {
	if name == "" {
		problems = append(problems, field.Required(at.Child("name"), "must specify a resource name"))
	}
	return append(problems, validateUsage(t, at.Child("target"))...)
}

func validateUsage(t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	problems := validateAmounts(t, at)
	switch amount, part := t.AverageValue != nil, t.AverageUtilization != nil; {
	case !amount && !part:
		problems = append(problems, field.Required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case amount && part:
		problems = append(problems, field.Forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return problems
}

func validateContainerMetric(m *autoscalingv2.ContainerResourceMetricSource, at *field.Path) (problems field.ErrorList) {
	if m.Name == "" {
		problems = append(problems, field.Required(at.Child("name"), "must specify a resource name"))
	} else {
		problems = append(problems, core.ContainerResource(m.Name, at.Child("name"))...)
	}
	if m.Container == "" {
		problems = append(problems, field.Required(at.Child("container"), "must specify a container"))
	} else {
		for _, text := range validation.IsDNS1123Label(m.Container) {
			problems = append(problems, field.Invalid(at.Child("container"), m.Container, text))
		}
	}
	return append(problems, validateUsage(&m.Target, at.Child("target"))...)
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) (problems field.ErrorList) {
	if r == nil {
		return nil
	}
	if w := r.StabilizationWindowSeconds; w != nil {
		at := at.Child("stabilizationWindowSeconds")
		if *w < 0 {
			problems = append(problems, field.Invalid(at, *w, "must be greater than or equal to zero"))
		}
		if *w > stabilizationMax {
			problems = append(problems, field.Invalid(at, *w, fmt.Sprintf("must be less than or equal to %v", stabilizationMax)))
		}
	}
	if p := r.SelectPolicy; p != nil {
		known := []autoscalingv2.ScalingPolicySelect{autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect}
		if !slices.Contains(known, *p) {
			problems = append(problems, field.NotSupported(at.Child("selectPolicy"), *p, known))
		}
	}
	if len(r.Policies) == 0 {
		problems = append(problems, field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i := range r.Policies {
		problems = append(problems, validateScalingPolicy(&r.Policies[i], at.Child("policies").Index(i))...)
	}
	if r.Tolerance != nil && r.Tolerance.Sign() < 0 {
		problems = append(problems, field.Invalid(at.Child("tolerance"), r.Tolerance.String(), "must be greater than or equal to 0"))
	}
	return problems
}

func validateScalingPolicy(p *autoscalingv2.HPAScalingPolicy, at *field.Path) (problems field.ErrorList) {
	known := []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy}
	if !slices.Contains(known, p.Type) {
		problems = append(problems, field.NotSupported(at.Child("type"), p.Type, known))
	}
	if p.Value <= 0 {
		problems = append(problems, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
	}
	if p.PeriodSeconds <= 0 {
		problems = append(problems, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
	}
	if p.PeriodSeconds > periodMax {
		problems = append(problems, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", periodMax)))
	}
	return problems
}

func validateAutoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	at := field.NewPath("status")
	problems := apivalidation.ValidateNonnegativeField(int64(h.Status.CurrentReplicas), at.Child("currentReplicas"))
	return append(problems, apivalidation.ValidateNonnegativeField(int64(h.Status.DesiredReplicas), at.Child("desiredReplicas"))...)
}
