// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
)

// ValidatingAdmissionPolicies judge what is written, by expressions, where bindings say so.
var ValidatingAdmissionPolicies = resource.WithList(resource.Define(resource.Definition[admissionv1.ValidatingAdmissionPolicy]{
	Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicy", Resource: "validatingadmissionpolicies",
	Categories:    []string{"api-extensions"},
	StoragePath:   "validatingadmissionpolicies",
	NeedsRevision: true,
	Default: func(p *admissionv1.ValidatingAdmissionPolicy) {
		fill(&p.Spec.FailurePolicy, admissionv1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	PrepareCreate: func(p *admissionv1.ValidatingAdmissionPolicy) {
		p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
		p.Generation = 1
	},
	PrepareUpdate: func(p, old *admissionv1.ValidatingAdmissionPolicy) {
		p.Status = *old.Status.DeepCopy()
		if p.Generation = old.Generation; !equality.Semantic.DeepEqual(p.Spec, old.Spec) {
			p.Generation++
		}
	},
	Validate: validateValidatingPolicy,
	Columns: []resource.Column[admissionv1.ValidatingAdmissionPolicy]{
		{Name: "Validations", Type: "integer", Description: "Validations indicates the number of validations rules defined in this configuration",
			Value: func(p *admissionv1.ValidatingAdmissionPolicy, _ time.Time) any { return int64(len(p.Spec.Validations)) }},
		{Name: "ParamKind", Description: "ParamKind specifies the kind of resources used to parameterize this policy",
			Value: func(p *admissionv1.ValidatingAdmissionPolicy, _ time.Time) any {
				return paramKindName(p.Spec.ParamKind)
			}},
	},
	Subresources: resource.Subresources[admissionv1.ValidatingAdmissionPolicy]{
		Status: &resource.Status[admissionv1.ValidatingAdmissionPolicy]{
			Prepare: func(p, old *admissionv1.ValidatingAdmissionPolicy) {
				status := p.Status
				*p = *old.DeepCopy()
				p.Status = status
			},
			Validate: func(p, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
				return statusProblems(&p.Status, field.NewPath("status"))
			},
			KeepMetadata: true,
		},
	},
}), func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicyList) })

func validateValidatingPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, at := &p.Spec, field.NewPath("spec")
	e, err := newEnvironments(expression.Scope{Params: s.ParamKind != nil, Authorizer: true}, len(s.Variables) > 0)
	if err != nil {
		return field.ErrorList{field.InternalError(at, err)}
	}
	problems := policyProblems(s.FailurePolicy, s.ParamKind, s.MatchConstraints, at)
	problems = append(problems, conditionProblems(e.conditions, s.MatchConditions, at.Child("matchConditions"))...)
	problems = append(problems, variableProblems(e.main, s.Variables, at.Child("variables"))...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		problems = append(problems,
			field.Required(at.Child("validations"), "validations or auditAnnotations must contain at least one item"),
			field.Required(at.Child("auditAnnotations"), "validations or auditAnnotations must contain at least one item"))
	}
	for i := range s.Validations {
		problems = append(problems, validationProblems(e, &s.Validations[i], at.Child("validations").Index(i))...)
	}
	return append(problems, auditProblems(e.main, p.Name, s.AuditAnnotations, at.Child("auditAnnotations"))...)
}

func statusProblems(s *admissionv1.ValidatingAdmissionPolicyStatus, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if s.TypeChecking != nil {
		at := at.Child("typeChecking", "expressionWarnings")
		for i, w := range s.TypeChecking.ExpressionWarnings {
			if w.Warning == "" {
				problems = append(problems, field.Required(at.Index(i).Child("warning"), ""))
			}
			if w.FieldRef == "" {
				problems = append(problems, field.Required(at.Index(i).Child("fieldRef"), ""))
			}
		}
	}
	return append(problems, metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))...)
}
