// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ResourceQuotas bound what a namespace may use in all.
var ResourceQuotas = resource.WithList(resource.Define(resource.Definition[corev1.ResourceQuota]{
	Group: "", Version: "v1", Kind: "ResourceQuota", Resource: "resourcequotas",
	ShortNames:    []string{"quota"},
	Scope:         resource.Namespaced,
	PrepareCreate: func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} },
	PrepareUpdate: func(q, old *corev1.ResourceQuota) { q.Status = *old.Status.DeepCopy() },
	Validate: func(q *corev1.ResourceQuota) field.ErrorList {
		problems := quotaAmounts(q.Spec.Hard, field.NewPath("spec", "hard"))
		problems = append(problems, validateScopes(&q.Spec, field.NewPath("spec"))...)
		return append(problems, validateScopeSelector(&q.Spec, field.NewPath("spec", "scopeSelector", "matchExpressions"))...)
	},
	ValidateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
		if sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
			return nil
		}
		return field.ErrorList{field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg)}
	},
	Columns: []resource.Column[corev1.ResourceQuota]{
		{Name: "Request", Value: func(q *corev1.ResourceQuota, _ time.Time) any { return quotaText(q, false) }},
		{Name: "Limit", Value: func(q *corev1.ResourceQuota, _ time.Time) any { return quotaText(q, true) }},
		{Name: "Age", Value: func(q *corev1.ResourceQuota, now time.Time) any { return age(q.CreationTimestamp, now) }},
	},
	Subresources: resource.Subresources[corev1.ResourceQuota]{Status: &resource.Status[corev1.ResourceQuota]{Prepare: func(obj, old *corev1.ResourceQuota) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}, Validate: func(obj, _ *corev1.ResourceQuota) field.ErrorList {
		problems := quotaAmounts(obj.Status.Hard, field.NewPath("status", "hard"))
		return append(problems, quotaAmounts(obj.Status.Used, field.NewPath("status", "used"))...)
	}}},
}), func() runtime.Object { return new(corev1.ResourceQuotaList) })

func quotaText(q *corev1.ResourceQuota, limits bool) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		if strings.HasPrefix(string(name), "limits") == limits {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			all = append(all, fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String()))
		}
	}
	return strings.Join(all, ", ")
}

func quotaAmounts(list corev1.ResourceList, at *field.Path) (problems field.ErrorList) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		at := at.Key(string(name))
		problems = append(problems, quotaResourceName(string(name), at)...)
		problems = append(problems, validateQuantity(name, list[name], at)...)
	}
	return problems
}

func quotaResourceName(name string, at *field.Path) field.ErrorList {
	problems := validateResourceName(name, at)
	huge, requests := strings.CutPrefix(name, corev1.DefaultResourceRequestsPrefix)
	if requests && isHugePages(corev1.ResourceName(huge)) {
		return slices.DeleteFunc(problems, func(e *field.Error) bool { return e.Detail == notQualified })
	}
	if !strings.Contains(name, "/") && !isHugePages(corev1.ResourceName(name)) && (name == "storage" || !isStandardResource(name)) {
		problems = append(problems, field.Invalid(at, name, "must be a standard resource for quota"))
	}
	return problems
}

// scopeAllows tells whether a scope can bound a resource.
func scopeAllows(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	pods := sets.New("pods", "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
		"limits.cpu", "limits.memory", "limits.ephemeral-storage")
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods || name == "count/pods"
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		n := string(name)
		return n == "persistentvolumeclaims" || n == "requests.storage" || n == "count/persistentvolumeclaims" || strings.Contains(n, ".storageclass.storage.k8s.io/")
	}
	return pods.Has(string(name)) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) && name != "requests.storage"
}

func knownScopes() sets.Set[corev1.ResourceQuotaScope] {
	return sets.New(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass)
}

// scopesConflict tells whether no pod could be in all of some scopes.
func scopesConflict(scopes sets.Set[corev1.ResourceQuotaScope]) bool {
	return scopes.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) ||
		scopes.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating)
}

func validateScopes(s *corev1.ResourceQuotaSpec, at *field.Path) (problems field.ErrorList) {
	at = at.Child("scopes")
	seen := sets.New[corev1.ResourceQuotaScope]()
	for _, scope := range s.Scopes {
		if !knownScopes().Has(scope) {
			problems = append(problems, field.Invalid(at, s.Scopes, "unsupported scope"))
		} else {
			for range unscoped(s, scope) {
				problems = append(problems, field.Invalid(at, s.Scopes, "unsupported scope applied to resource"))
			}
		}
		seen.Insert(scope)
	}
	if scopesConflict(seen) {
		problems = append(problems, field.Invalid(at, s.Scopes, "conflicting scopes"))
	}
	return problems
}

// unscoped are the resources of a quota that a scope of it cannot bound.
func unscoped(s *corev1.ResourceQuotaSpec, scope corev1.ResourceQuotaScope) (names []corev1.ResourceName) {
	for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
		if !scopeAllows(scope, name) {
			names = append(names, name)
		}
	}
	return names
}

func validateScopeSelector(s *corev1.ResourceQuotaSpec, at *field.Path) (problems field.ErrorList) {
	if s.ScopeSelector == nil {
		return nil
	}
	seen := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range s.ScopeSelector.MatchExpressions {
		if !knownScopes().Has(r.ScopeName) {
			problems = append(problems, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		} else {
			for range unscoped(s, r.ScopeName) {
				problems = append(problems, field.Invalid(at, shown{s.ScopeSelector}, "unsupported scope applied to resource"))
			}
		}
		problems = append(problems, validateScopeRequirement(&r, at)...)
		seen.Insert(r.ScopeName)
	}
	if scopesConflict(seen) {
		problems = append(problems, field.Invalid(at, shown{s.ScopeSelector}, "conflicting scopes"))
	}
	return problems
}

func validateScopeRequirement(r *corev1.ScopedResourceSelectorRequirement, at *field.Path) (problems field.ErrorList) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if r.Operator != corev1.ScopeSelectorOpExists {
			problems = append(problems, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "+
				"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			problems = append(problems, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			problems = append(problems, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector"))
		}
	default:
		problems = append(problems, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return problems
}
