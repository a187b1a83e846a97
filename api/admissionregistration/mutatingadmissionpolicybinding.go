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

// MutatingAdmissionPolicyBindings say for which objects, and with which parameters, a policy is in force.
var MutatingAdmissionPolicyBindings = resource.WithList(resource.Define(resource.Definition[admissionv1.MutatingAdmissionPolicyBinding]{
	Group: group, Version: "v1", Kind: "MutatingAdmissionPolicyBinding", Resource: "mutatingadmissionpolicybindings",
	Categories:     []string{"api-extensions"},
	StoragePath:    "mutatingadmissionpolicybindings",
	StorageVersion: "v1beta1", // as Kubernetes v1.36 keeps them
	NeedsRevision:  true,
	Default:        func(b *admissionv1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	PrepareCreate:  func(b *admissionv1.MutatingAdmissionPolicyBinding) { b.Generation = 1 },
	PrepareUpdate: func(b, old *admissionv1.MutatingAdmissionPolicyBinding) {
		if b.Generation = old.Generation; !equality.Semantic.DeepEqual(b.Spec, old.Spec) {
			b.Generation++
		}
	},
	Validate: validateMutatingBinding,
	Columns: []resource.Column[admissionv1.MutatingAdmissionPolicyBinding]{
		{Name: "PolicyName", Description: "PolicyName indicates the policy definition which the policy binding binded to",
			Value: func(b *admissionv1.MutatingAdmissionPolicyBinding, _ time.Time) any { return b.Spec.PolicyName }},
		{Name: "ParamRef", Description: "ParamRef indicates the param resource which sets the configration param",
			Value: func(b *admissionv1.MutatingAdmissionPolicyBinding, _ time.Time) any {
				return paramRefName(b.Spec.ParamRef)
			}},
	},
}), func() runtime.Object { return new(admissionv1.MutatingAdmissionPolicyBindingList) })

func validateMutatingBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	s, at := &b.Spec, field.NewPath("spec")
	var problems field.ErrorList
	problems = append(problems, policyNameProblems(s.PolicyName, at.Child("policyName"))...)
	problems = append(problems, paramRefProblems(s.ParamRef, at.Child("paramRef"))...)
	problems = append(problems, matchProblems(s.MatchResources, at.Child("matchResources"))...)
	return append(problems, deleteProblems(s.MatchResources, at.Child("matchResources", "resourceRules", "operations"))...)
}
