// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// LimitRanges bound and default what pods of a namespace request.
var LimitRanges = resource.WithList(resource.Define(resource.Definition[corev1.LimitRange]{
	Group: "", Version: "v1", Kind: "LimitRange", Resource: "limitranges",
	ShortNames:     []string{"limits"},
	Scope:          resource.Namespaced,
	CreateOnUpdate: true,
	Default: func(l *corev1.LimitRange) {
		for i := range l.Spec.Limits {
			defaultLimits(&l.Spec.Limits[i])
		}
	},
	PrepareCreate: func(l *corev1.LimitRange) {
		if l.Name == "" {
			l.Name = string(uuid.NewUUID())
		}
		l.Spec.Limits = noneIfEmpty(l.Spec.Limits)
	},
	PrepareUpdate: func(l, _ *corev1.LimitRange) { l.Spec.Limits = noneIfEmpty(l.Spec.Limits) },
	Validate: func(l *corev1.LimitRange) field.ErrorList {
		var problems field.ErrorList
		types := sets.New[corev1.LimitType]()
		for i := range l.Spec.Limits {
			limit, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
			problems = append(problems, limitTypeName(string(limit.Type), at.Child("type"))...)
			if types.Has(limit.Type) {
				problems = append(problems, field.Duplicate(at.Child("type"), limit.Type))
			}
			types.Insert(limit.Type)
			problems = append(problems, validateLimit(limit, at)...)
		}
		return problems
	},
	Columns: []resource.Column[corev1.LimitRange]{
		{Name: "Created At", Type: "date", Value: func(l *corev1.LimitRange, _ time.Time) any { return l.CreationTimestamp.UTC().Format(time.RFC3339) }},
	},
}), func() runtime.Object { return new(corev1.LimitRangeList) })

// noneIfEmpty makes an empty list one that is not there, as it is when it was stored. Before that its writer owns it.
func noneIfEmpty[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// defaultLimits completes the limits of containers: what is given at most is given by default, and requested.
func defaultLimits(l *corev1.LimitRangeItem) {
	if l.Type != corev1.LimitTypeContainer {
		return
	}
	fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
		for name, q := range from {
			if _, set := (*to)[name]; set {
				continue
			}
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			(*to)[name] = q.DeepCopy()
		}
	}
	fill(&l.Default, l.Max)
	fill(&l.DefaultRequest, l.Default)
	fill(&l.DefaultRequest, l.Min)
}

func limitTypeName(name string, at *field.Path) (problems field.ErrorList) {
	for _, m := range validation.IsQualifiedName(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	if len(problems) == 0 && name != string(corev1.LimitTypePod) && name != string(corev1.LimitTypeContainer) && name != string(corev1.LimitTypePersistentVolumeClaim) &&
		!slices.Contains([]rune(name), '/') {
		problems = append(problems, field.Invalid(at, name, "must be a standard limit type or fully qualified"))
	}
	return problems
}

func validateLimit(l *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	names := sets.New[corev1.ResourceName]()
	for _, list := range []struct {
		name   string
		amount corev1.ResourceList
	}{{"max", l.Max}, {"min", l.Min}, {"default", l.Default}, {"defaultRequest", l.DefaultRequest}, {"maxLimitRequestRatio", l.MaxLimitRequestRatio}} {
		if (list.name == "default" || list.name == "defaultRequest") && l.Type == corev1.LimitTypePod {
			if len(list.amount) > 0 {
				problems = append(problems, field.Forbidden(at.Child(list.name), "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(list.amount)) {
			key := at.Child(list.name).Key(string(name))
			if l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
				problems = append(problems, validateContainerResourceName(name, key)...)
			} else {
				problems = append(problems, validateResourceName(string(name), key)...)
			}
			names.Insert(name)
		}
	}
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, minimum := l.Min[corev1.ResourceStorage]
		_, maximum := l.Max[corev1.ResourceStorage]
		if !minimum && !maximum {
			problems = append(problems, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for _, name := range sets.List(names) {
		problems = append(problems, compareLimits(l, name, at)...)
	}
	return problems
}

// compareLimits checks the amounts of one resource against each other.
func compareLimits(l *corev1.LimitRangeItem, name corev1.ResourceName, at *field.Path) (problems field.ErrorList) {
	amount := func(list corev1.ResourceList) *apiresource.Quantity {
		if q, ok := list[name]; ok {
			return &q
		}
		return nil
	}
	least, most, request, limit, ratio := amount(l.Min), amount(l.Max), amount(l.DefaultRequest), amount(l.Default), amount(l.MaxLimitRequestRatio)
	if l.Type == corev1.LimitTypePod {
		request, limit = nil, nil
	}
	order := func(child string, value, small, large *apiresource.Quantity, smallName, largeName string) {
		if small != nil && large != nil && small.Cmp(*large) > 0 {
			problems = append(problems, field.Invalid(at.Child(child).Key(string(name)), value.String(),
				fmt.Sprintf("%s value %s is greater than %s value %s", smallName, small.String(), largeName, large.String())))
		}
	}
	order("min", least, least, most, "min", "max")
	order("defaultRequest", request, least, request, "min", "default request")
	order("defaultRequest", request, request, most, "default request", "max")
	order("defaultRequest", request, request, limit, "default request", "default limit")
	order("default", least, least, limit, "min", "default")
	order("default", most, limit, most, "default", "max")
	if ratio != nil && ratio.Cmp(*apiresource.NewQuantity(1, apiresource.DecimalSI)) < 0 {
		problems = append(problems, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	if ratio != nil && least != nil && most != nil && !least.IsZero() {
		if bound := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > bound {
			problems = append(problems, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio.String(),
				fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), bound)))
		}
	}
	if !overcommits(name) && request != nil && limit != nil && request.Cmp(*limit) != 0 {
		problems = append(problems, field.Invalid(at.Child("defaultRequest").Key(string(name)), request.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
	return problems
}
