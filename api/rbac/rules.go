// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

// noneIfEmpty makes an empty list one that is not there, as it is when it was stored.
func noneIfEmpty(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	if len(rules) == 0 {
		return nil
	}
	return rules
}

func validateAggregation(a *rbacv1.AggregationRule, at *field.Path) (problems field.ErrorList) {
	if a == nil {
		return nil
	}
	at = at.Child("clusterRoleSelectors")
	if len(a.ClusterRoleSelectors) == 0 {
		return field.ErrorList{field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil")}
	}
	for i := range a.ClusterRoleSelectors {
		at, selector := at.Index(i), &a.ClusterRoleSelectors[i]
		problems = append(problems, metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at)...)
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			problems = append(problems, field.Invalid(at, s, "invalid label selector."))
		}
	}
	return problems
}

func sameRole(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), core.Shown(&ref), "cannot change roleRef")}
}

func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, kinds ...string) (problems field.ErrorList) {
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		problems = append(problems, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	if !slices.Contains(kinds, ref.Kind) {
		problems = append(problems, field.NotSupported(at.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		problems = append(problems, field.Required(at.Child("name"), ""))
	} else {
		for _, m := range path.ValidatePathSegmentName(ref.Name, false) {
			problems = append(problems, field.Invalid(at.Child("name"), ref.Name, m))
		}
	}
	for i, s := range subjects {
		problems = append(problems, validateSubject(s, slices.Contains(kinds, "Role"), field.NewPath("subjects").Index(i))...)
	}
	return problems
}

func validateSubject(s rbacv1.Subject, namespaced bool, at *field.Path) (problems field.ErrorList) {
	if s.Name == "" {
		problems = append(problems, field.Required(at.Child("name"), ""))
	}
	group := rbacv1.GroupName
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		group = ""
		if s.Name != "" {
			for _, m := range apivalidation.ValidateServiceAccountName(s.Name, false) {
				problems = append(problems, field.Invalid(at.Child("name"), s.Name, m))
			}
		}
		if s.Namespace == "" && !namespaced {
			problems = append(problems, field.Required(at.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
	default:
		return append(problems, field.NotSupported(at.Child("kind"), s.Kind,
			[]string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	if s.APIGroup != group {
		problems = append(problems, field.NotSupported(at.Child("apiGroup"), s.APIGroup, []string{group}))
	}
	return problems
}

func validateRules(rules []rbacv1.PolicyRule, namespaced bool) (problems field.ErrorList) {
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			problems = append(problems, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				problems = append(problems, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				problems = append(problems, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			problems = append(problems, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			problems = append(problems, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return problems
}

func subjects(all []rbacv1.Subject, kind string) string {
	var names []string
	for _, s := range all {
		switch {
		case s.Kind != kind:
		case kind == rbacv1.ServiceAccountKind:
			names = append(names, s.Namespace+"/"+s.Name)
		default:
			names = append(names, s.Name)
		}
	}
	return strings.Join(names, ", ")
}
