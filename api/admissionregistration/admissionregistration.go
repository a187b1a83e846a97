// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package admissionregistration describes the kinds of admissionregistration.k8s.io/v1, one file each: webhooks and
// policies that change or judge what is written.
//
// The structs come from k8s.io/api/admissionregistration/v1; here are their defaults, rules and columns, as Kubernetes
// v1.36 has them. What the webhooks and policies do is in the API server's admission steps. rules.go and webhook.go have
// what the kinds share, expressions.go the checks of CEL.
package admissionregistration

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const group = "admissionregistration.k8s.io"

// fill gives an optional field its default.
func fill[T any](at **T, value T) {
	if *at == nil {
		*at = &value
	}
}

func fillSelectors(namespace, object **metav1.LabelSelector) {
	fill(namespace, metav1.LabelSelector{})
	fill(object, metav1.LabelSelector{})
}

func selectorProblems(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)
}

// oneOf finds a value that is none of the allowed ones; nil is fine.
func oneOf[T ~string](v *T, at *field.Path, allowed ...T) field.ErrorList {
	if v == nil {
		return nil
	}
	for _, a := range allowed {
		if *v == a {
			return nil
		}
	}
	slices.Sort(allowed)
	return field.ErrorList{field.NotSupported(at, *v, allowed)}
}

func failurePolicyProblems(p *admissionv1.FailurePolicyType, at *field.Path) field.ErrorList {
	return oneOf(p, at, admissionv1.Ignore, admissionv1.Fail)
}

func matchPolicyProblems(p *admissionv1.MatchPolicyType, at *field.Path) field.ErrorList {
	return oneOf(p, at, admissionv1.Exact, admissionv1.Equivalent)
}
