// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func defaultRule(r *admissionv1.RuleWithOperations) { fill(&r.Scope, admissionv1.AllScopes) }

// defaultMatch fills in what a policy or binding matches.
func defaultMatch(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	fill(&m.MatchPolicy, admissionv1.Equivalent)
	fillSelectors(&m.NamespaceSelector, &m.ObjectSelector)
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			defaultRule(&rules[i].RuleWithOperations)
		}
	}
}

// matchProblems are the problems of what a policy or binding matches.
func matchProblems(m *admissionv1.MatchResources, at *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	problems := matchPolicyProblems(m.MatchPolicy, at.Child("matchPolicy"))
	if m.NamespaceSelector == nil {
		problems = append(problems, field.Required(at.Child("namespaceSelector"), ""))
	}
	problems = append(problems, selectorProblems(m.NamespaceSelector, at.Child("namespaceSelector"))...)
	if m.ObjectSelector == nil {
		problems = append(problems, field.Required(at.Child("objectSelector"), ""))
	}
	problems = append(problems, selectorProblems(m.ObjectSelector, at.Child("objectSelector"))...)
	for i := range m.ResourceRules {
		problems = append(problems, namedRuleProblems(&m.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		problems = append(problems, namedRuleProblems(&m.ExcludeResourceRules[i], at.Child("excludeResourceRules").Index(i))...)
	}
	return problems
}

func namedRuleProblems(r *admissionv1.NamedRuleWithOperations, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	seen := map[string]bool{}
	for i, name := range r.ResourceNames {
		problems = append(problems, resourceNameProblems(name, at.Child("resourceNames").Index(i))...)
		if seen[name] {
			problems = append(problems, field.Duplicate(at.Child("resourceNames").Index(i), name))
		}
		seen[name] = true
	}
	return append(problems, ruleProblems(&r.RuleWithOperations, at)...)
}

// ruleProblems are the problems of one rule.
func ruleProblems(r *admissionv1.RuleWithOperations, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if len(r.Operations) == 0 {
		problems = append(problems, field.Required(at.Child("operations"), ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		problems = append(problems, field.Invalid(at.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i := range r.Operations {
		problems = append(problems, oneOf(&r.Operations[i], at.Child("operations").Index(i),
			admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	if len(r.APIGroups) == 0 {
		problems = append(problems, field.Required(at.Child("apiGroups"), ""))
	}
	if len(r.APIGroups) > 1 && slices.Contains(r.APIGroups, "*") {
		problems = append(problems, field.Invalid(at.Child("apiGroups"), r.APIGroups, "if '*' is present, must not specify other API groups"))
	}
	if len(r.APIVersions) == 0 {
		problems = append(problems, field.Required(at.Child("apiVersions"), ""))
	}
	if len(r.APIVersions) > 1 && slices.Contains(r.APIVersions, "*") {
		problems = append(problems, field.Invalid(at.Child("apiVersions"), r.APIVersions, "if '*' is present, must not specify other API versions"))
	}
	for i, version := range r.APIVersions {
		if version == "" {
			problems = append(problems, field.Required(at.Child("apiVersions").Index(i), ""))
		}
	}
	problems = append(problems, resourcesProblems(r.Resources, at.Child("resources"))...)
	return append(problems, oneOf(r.Scope, at.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
}

// resourcesProblems finds resources of a rule that others of it cover.
func resourcesProblems(resources []string, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if len(resources) == 0 {
		problems = append(problems, field.Required(at, ""))
	}
	allSubresources, allOf := map[string]bool{}, map[string]bool{} // "*/sub" and "resource/*"
	everything := slices.Contains(resources, "*/*")
	anyResource, plain := slices.Contains(resources, "*"), false
	for i, r := range resources {
		if r == "" {
			problems = append(problems, field.Required(at.Index(i), ""))
			continue
		}
		name, sub, divided := strings.Cut(r, "/")
		if !divided {
			plain = plain || r != "*"
			continue
		}
		if allOf[name] {
			problems = append(problems, field.Invalid(at.Index(i), r, fmt.Sprintf("if '%s/*' is present, must not specify %s", name, r)))
		}
		if allSubresources[sub] {
			problems = append(problems, field.Invalid(at.Index(i), r, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, r)))
		}
		if name == "*" {
			allSubresources[sub] = true
		}
		if sub == "*" {
			allOf[name] = true
		}
	}
	if len(resources) > 1 && everything {
		problems = append(problems, field.Invalid(at, resources, "if '*/*' is present, must not specify other resources"))
	}
	if anyResource && plain {
		problems = append(problems, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return problems
}
