// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateSchemaSpec(s, at)
	for _, fixed := range []*flowcontrolv1.FlowSchema{exemptSchema(), catchAllSchema()} {
		if s.Name == fixed.Name && !equality.Semantic.DeepEqual(s.Spec, fixed.Spec) {
			problems = append(problems, field.Invalid(at, core.Shown(s.Spec), fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
		}
	}
	return append(problems, validateSchemaStatus(&s.Status)...)
}

func validateSchemaSpec(f *flowcontrolv1.FlowSchema, at *field.Path) (problems field.ErrorList) {
	s := &f.Spec
	switch p := s.MatchingPrecedence; {
	case p <= 0:
		problems = append(problems, field.Invalid(at.Child("matchingPrecedence"), p, "must be a positive value"))
	case p > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		problems = append(problems, field.Invalid(at.Child("matchingPrecedence"), p, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case p == 1 && f.Name != flowcontrolv1.FlowSchemaNameExempt:
		problems = append(problems, field.Invalid(at.Child("matchingPrecedence"), p, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if d := s.DistinguisherMethod; d != nil && d.Type != flowcontrolv1.FlowDistinguisherMethodByUserType && d.Type != flowcontrolv1.FlowDistinguisherMethodByNamespaceType {
		problems = append(problems, field.NotSupported(at.Child("distinguisherMethod", "type"), core.Shown(d), []string{"ByNamespace", "ByUser"}))
	}
	level := at.Child("priorityLevelConfiguration", "name")
	if s.PriorityLevelConfiguration.Name == "" {
		problems = append(problems, field.Required(level, "must reference a priority level"))
	} else {
		problems = append(problems, core.Subdomain(s.PriorityLevelConfiguration.Name, level)...)
	}
	for i := range s.Rules {
		problems = append(problems, validateRule(&s.Rules[i], at.Child("rules").Index(i))...)
	}
	return problems
}

func validateRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) (problems field.ErrorList) {
	if len(r.Subjects) == 0 {
		problems = append(problems, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		problems = append(problems, validateSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		problems = append(problems, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		problems = append(problems, validateResourceRule(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		problems = append(problems, validateNonResourceRule(&r.NonResourceRules[i], at.Child("nonResourceRules").Index(i))...)
	}
	return problems
}

func validateSubject(s *flowcontrolv1.Subject, at *field.Path) (problems field.ErrorList) {
	var given = map[flowcontrolv1.SubjectKind]bool{
		flowcontrolv1.SubjectKindServiceAccount: s.ServiceAccount != nil,
		flowcontrolv1.SubjectKindUser:           s.User != nil,
		flowcontrolv1.SubjectKindGroup:          s.Group != nil,
	}
	names := map[flowcontrolv1.SubjectKind]string{
		flowcontrolv1.SubjectKindServiceAccount: "serviceAccount", flowcontrolv1.SubjectKindUser: "user", flowcontrolv1.SubjectKindGroup: "group",
	}
	name, known := names[s.Kind]
	if !known {
		return field.ErrorList{field.NotSupported(at.Child("kind"), s.Kind, []flowcontrolv1.SubjectKind{
			flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser})}
	}
	if !given[s.Kind] {
		problems = append(problems, field.Required(at.Child(name), fmt.Sprintf("%s is required when subject kind is '%s'", name, s.Kind)))
	} else {
		problems = append(problems, validateSubjectName(s, at.Child(name))...)
	}
	for _, other := range []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser, flowcontrolv1.SubjectKindGroup} {
		if other != s.Kind && given[other] {
			problems = append(problems, field.Forbidden(at.Child(names[other]), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", names[other], other)))
		}
	}
	return problems
}

func validateSubjectName(s *flowcontrolv1.Subject, at *field.Path) (problems field.ErrorList) {
	switch s.Kind {
	case flowcontrolv1.SubjectKindUser:
		return core.Needed(at, "name", s.User.Name)
	case flowcontrolv1.SubjectKindGroup:
		return core.Needed(at, "name", s.Group.Name)
	}
	a := s.ServiceAccount
	switch a.Name {
	case "":
		problems = append(problems, field.Required(at.Child("name"), ""))
	case flowcontrolv1.NameAll:
	default:
		problems = append(problems, core.Subdomain(a.Name, at.Child("name"))...)
	}
	if a.Namespace == "" {
		return append(problems, field.Required(at.Child("namespace"), "must specify namespace for service account"))
	}
	return append(problems, core.Label(a.Namespace, at.Child("namespace"))...)
}

func verbs() []string {
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
}

// list checks one that is not empty and does not name others beside a star.
func list(values []string, missing, others string, at *field.Path) field.ErrorList {
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(at, missing)}
	case len(values) > 1 && slices.Contains(values, "*"):
		return field.ErrorList{field.Invalid(at, values, "if '*' is present, must not specify other "+others)}
	}
	return nil
}

func validateVerbs(values []string, at *field.Path) field.ErrorList {
	problems := list(values, "verbs must contain at least one value", "verbs", at)
	if len(values) > 0 && !slices.Contains(values, "*") && !sets.New(verbs()...).HasAll(values...) {
		problems = append(problems, field.NotSupported(at, values, verbs()))
	}
	return problems
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	problems := validateVerbs(r.Verbs, at.Child("verbs"))
	problems = append(problems, list(r.APIGroups, "resource rules must supply at least one api group", "api groups", at.Child("apiGroups"))...)
	problems = append(problems, list(r.Resources, "resource rules must supply at least one resource", "resources", at.Child("resources"))...)
	at = at.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		return append(problems, field.Required(at, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if len(r.Namespaces) > 1 && slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery) {
		return append(problems, field.Invalid(at, r.Namespaces, "if '*' is present, must not specify other namespaces"))
	}
	for i, n := range r.Namespaces {
		if n == flowcontrolv1.NamespaceEvery {
			continue
		}
		for _, m := range validation.IsDNS1123Label(n) {
			problems = append(problems, field.Invalid(at.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+m))
		}
	}
	return problems
}

func validateNonResourceRule(r *flowcontrolv1.NonResourcePolicyRule, at *field.Path) field.ErrorList {
	problems := validateVerbs(r.Verbs, at.Child("verbs"))
	at = at.Child("nonResourceURLs")
	if bad := list(r.NonResourceURLs, "nonResourceURLs must contain at least one value", "non-resource URLs", at); len(bad) > 0 {
		return append(problems, bad...)
	}
	for i, url := range r.NonResourceURLs {
		if why := urlProblem(url); why != "" {
			problems = append(problems, field.Invalid(at.Index(i), url, why))
		}
	}
	return problems
}

func urlProblem(url string) string {
	switch {
	case url == "*":
		return ""
	case url == "":
		return "must not be empty"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case !strings.HasPrefix(url, "/"):
		return "must start with slash"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	}
	if before, _, star := strings.Cut(url, "*"); star && (before+"*" != url || !strings.HasSuffix(before, "/")) {
		return "wildcard can only do suffix matching"
	}
	return ""
}

func validateSchemaStatus(s *flowcontrolv1.FlowSchemaStatus) (problems field.ErrorList) {
	seen := sets.New[flowcontrolv1.FlowSchemaConditionType]()
	for i, c := range s.Conditions {
		problems = append(problems, conditionType(string(c.Type), seen.Has(c.Type), field.NewPath("status", "conditions").Index(i).Child("type"))...)
		seen.Insert(c.Type)
	}
	return problems
}

func conditionType(name string, twice bool, at *field.Path) (problems field.ErrorList) {
	if twice {
		problems = append(problems, field.Duplicate(at, name))
	}
	if name == "" {
		problems = append(problems, field.Required(at, ""))
	}
	return problems
}
