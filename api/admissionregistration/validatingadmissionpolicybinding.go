// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ValidatingAdmissionPolicyBindings say for which objects, and with which parameters, a policy is in force.
var ValidatingAdmissionPolicyBindings = resource.WithList(resource.Define(resource.Definition[admissionv1.ValidatingAdmissionPolicyBinding]{
	Group: group, Version: "v1", Kind: "ValidatingAdmissionPolicyBinding", Resource: "validatingadmissionpolicybindings",
	Categories:    []string{"api-extensions"},
	StoragePath:   "validatingadmissionpolicybindings",
	NeedsRevision: true,
	Default:       func(b *admissionv1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	PrepareCreate: func(b *admissionv1.ValidatingAdmissionPolicyBinding) { b.Generation = 1 },
	PrepareUpdate: func(b, old *admissionv1.ValidatingAdmissionPolicyBinding) {
		if b.Generation = old.Generation; !equality.Semantic.DeepEqual(b.Spec, old.Spec) {
			b.Generation++
		}
	},
	Validate: validateValidatingBinding,
	Columns: []resource.Column[admissionv1.ValidatingAdmissionPolicyBinding]{
		{Name: "PolicyName", Description: "PolicyName indicates the policy definition which the policy binding binded to",
			Value: func(b *admissionv1.ValidatingAdmissionPolicyBinding, _ time.Time) any { return b.Spec.PolicyName }},
		{Name: "ParamRef", Description: "ParamRef indicates the param resource which sets the configration param",
			Value: func(b *admissionv1.ValidatingAdmissionPolicyBinding, _ time.Time) any {
				return paramRefName(b.Spec.ParamRef)
			}},
	},
}), func() runtime.Object { return new(admissionv1.ValidatingAdmissionPolicyBindingList) })

func validateValidatingBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	s, at := &b.Spec, field.NewPath("spec")
	var problems field.ErrorList
	problems = append(problems, policyNameProblems(s.PolicyName, at.Child("policyName"))...)
	problems = append(problems, paramRefProblems(s.ParamRef, at.Child("paramRef"))...)
	problems = append(problems, matchProblems(s.MatchResources, at.Child("matchResources"))...)
	return append(problems, actionProblems(s.ValidationActions, at.Child("validationActions"))...)
}

func actionProblems(actions []admissionv1.ValidationAction, at *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(at, "at least one validation action is required")}
	}
	var problems field.ErrorList
	seen := map[admissionv1.ValidationAction]bool{}
	for i := range actions {
		problems = append(problems, oneOf(&actions[i], at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if seen[actions[i]] {
			problems = append(problems, field.Duplicate(at.Index(i), actions[i]))
		}
		seen[actions[i]] = true
	}
	if seen[admissionv1.Deny] && seen[admissionv1.Warn] {
		problems = append(problems, field.Invalid(at, actions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return problems
}
