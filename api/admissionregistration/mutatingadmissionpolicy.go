// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
)

// MutatingAdmissionPolicies change what is written, by expressions, where bindings say so.
var MutatingAdmissionPolicies = resource.WithList(resource.Define(resource.Definition[admissionv1.MutatingAdmissionPolicy]{
	Group: group, Version: "v1", Kind: "MutatingAdmissionPolicy", Resource: "mutatingadmissionpolicies",
	Categories:     []string{"api-extensions"},
	StoragePath:    "mutatingadmissionpolicies",
	StorageVersion: "v1beta1", // as Kubernetes v1.36 keeps them
	NeedsRevision:  true,
	Default: func(p *admissionv1.MutatingAdmissionPolicy) {
		fill(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	PrepareCreate: func(p *admissionv1.MutatingAdmissionPolicy) {
		p.Generation = 1
	},
	PrepareUpdate: func(p, old *admissionv1.MutatingAdmissionPolicy) {
		if p.Generation = old.Generation; !equality.Semantic.DeepEqual(p.Spec, old.Spec) {
			p.Generation++
		}
	},
	Validate: validateMutatingPolicy,
	Columns: []resource.Column[admissionv1.MutatingAdmissionPolicy]{
		{Name: "Mutations", Type: "integer", Description: "Mutations indicates the number of mutations rules defined in this configuration",
			Value: func(p *admissionv1.MutatingAdmissionPolicy, _ time.Time) any { return int64(len(p.Spec.Mutations)) }},
		{Name: "ParamKind", Description: "ParamKind specifies the kind of resources used to parameterize this policy",
			Value: func(p *admissionv1.MutatingAdmissionPolicy, _ time.Time) any { return paramKindName(p.Spec.ParamKind) }},
	},
}), func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicyList) })

func validateMutatingPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s, at := &p.Spec, field.NewPath("spec")
	e, err := newEnvironments(expression.Scope{Params: s.ParamKind != nil, Authorizer: true, Mutation: true}, true)
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	problems := policyProblems(s.FailurePolicy, s.ParamKind, s.MatchConstraints, at)
	problems = append(problems, conditionProblems(e.conditions, s.MatchConditions, at.Child("matchConditions"))...)
	problems = append(problems, variableProblems(e.main, s.Variables, at.Child("variables"))...)
	problems = append(problems, deleteProblems(s.MatchConstraints, at.Child("matchConstraints", "resourceRules", "operations"))...)
	if len(s.Mutations) == 0 {
		problems = append(problems, field.Required(at.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		problems = append(problems, mutationProblems(e.main, &s.Mutations[i], at.Child("mutations").Index(i))...)
	}
	if s.ReinvocationPolicy == "" {
		return append(problems, field.Required(at.Child("reinvocationPolicy"), ""))
	}
	return append(problems, oneOf(&s.ReinvocationPolicy, at.Child("reinvocationPolicy"),
		admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
}

// deleteProblems finds rules for deletions, where there is nothing to change, and for what is no operation.
func deleteProblems(m *admissionv1.MatchResources, at *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var problems field.ErrorList
	for i := range m.ResourceRules {
		for _, o := range m.ResourceRules[i].Operations {
			if o != admissionv1.OperationAll && o != admissionv1.Connect && o != admissionv1.Create && o != admissionv1.Update {
				problems = append(problems, field.NotSupported(at, o, []string{"*", "CONNECT", "CREATE", "UPDATE"}))
			}
		}
	}
	return problems
}

func mutationProblems(e *expression.Environment, m *admissionv1.Mutation, at *field.Path) field.ErrorList {
	var problems, errs field.ErrorList
	switch m.PatchType {
	case admissionv1.PatchTypeApplyConfiguration:
		at := at.Child("applyConfiguration")
		if m.ApplyConfiguration == nil {
			problems = append(problems, field.Required(at, "must be specified when patchType is ApplyConfiguration"))
		} else {
			_, errs = expressionProblems(e, m.ApplyConfiguration.Expression, at.Child("expression"), "", expression.Configuration)
		}
	case admissionv1.PatchTypeJSONPatch:
		at := at.Child("jsonPatch")
		if m.JSONPatch == nil {
			problems = append(problems, field.Required(at, "must be specified when patchType is JSONPatch"))
		} else {
			_, errs = expressionProblems(e, m.JSONPatch.Expression, at.Child("expression"), "", expression.Patch)
		}
	case "":
		return field.ErrorList{field.Required(at.Child("patchType"), "")}
	default:
		return oneOf(&m.PatchType, at.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
	problems = append(problems, errs...)
	if m.JSONPatch != nil && m.PatchType == admissionv1.PatchTypeApplyConfiguration {
		problems = append(problems, field.Invalid(at.Child("jsonPatch"), "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
	}
	if m.ApplyConfiguration != nil && m.PatchType == admissionv1.PatchTypeJSONPatch {
		problems = append(problems, field.Invalid(at.Child("applyConfiguration"), "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
	}
	return problems
}
