// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func paramKindProblems(k *admissionv1.ParamKind, at *field.Path) field.ErrorList {
	if k == nil {
		return nil
	}
	var problems field.ErrorList
	if k.APIVersion == "" {
		problems = append(problems, field.Required(at.Child("apiVersion"), ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		problems = append(problems, field.Invalid(at.Child("apiVersion"), k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			for _, text := range validation.IsDNS1123Subdomain(gv.Group) {
				problems = append(problems, field.Invalid(at.Child("apiVersion"), gv.Group, text))
			}
		}
		for _, text := range validation.IsDNS1035Label(gv.Version) {
			problems = append(problems, field.Invalid(at.Child("apiVersion"), gv.Version, text))
		}
	}
	if k.Kind == "" {
		return append(problems, field.Required(at.Child("kind"), ""))
	}
	for _, text := range validation.IsDNS1035Label(strings.ToLower(k.Kind)) {
		problems = append(problems, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+text))
	}
	return problems
}

func paramRefProblems(r *admissionv1.ParamRef, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var problems field.ErrorList
	if r.Name != "" {
		for _, text := range path.ValidatePathSegmentName(r.Name, false) {
			problems = append(problems, field.Invalid(at.Child("name"), r.Name, text))
		}
		if r.Selector != nil {
			problems = append(problems, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"))
		}
	}
	if r.Selector != nil {
		problems = append(problems, selectorProblems(r.Selector, at.Child("selector"))...)
		if r.Name != "" {
			problems = append(problems, field.Forbidden(at.Child("selector"), "name and selector are mutually exclusive"))
		}
	}
	if r.Name == "" && r.Selector == nil {
		problems = append(problems, field.Required(at, "one of name or selector must be specified"))
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(problems, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	if a := *r.ParameterNotFoundAction; a != admissionv1.DenyAction && a != admissionv1.AllowAction {
		problems = append(problems, field.NotSupported(at.Child("parameterNotFoundAction"), a, []string{"Deny", "Allow"}))
	}
	return problems
}

// paramKindName is a column.
func paramKindName(k *admissionv1.ParamKind) any {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

// paramRefName is a column.
func paramRefName(r *admissionv1.ParamRef) any {
	switch {
	case r == nil:
		return "<unset>"
	case r.Name == "":
		return "*"
	case r.Namespace != "":
		return r.Namespace + "/" + r.Name
	}
	return r.Name
}

func policyNameProblems(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var problems field.ErrorList
	for _, text := range validation.IsDNS1123Subdomain(name) {
		problems = append(problems, field.Invalid(at, name, text))
	}
	return problems
}

func resourceNameProblems(name string, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	for _, text := range path.ValidatePathSegmentName(name, false) {
		problems = append(problems, field.Invalid(at, name, text))
	}
	return problems
}

// policyProblems are those of what both kinds of policies have.
func policyProblems(failure *admissionv1.FailurePolicyType, params *admissionv1.ParamKind, match *admissionv1.MatchResources, at *field.Path) field.ErrorList {
	problems := failurePolicyProblems(failure, at.Child("failurePolicy"))
	problems = append(problems, paramKindProblems(params, at.Child("paramKind"))...)
	if match == nil {
		return append(problems, field.Required(at.Child("matchConstraints"), ""))
	}
	problems = append(problems, matchProblems(match, at.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		problems = append(problems, field.Required(at.Child("matchConstraints", "resourceRules"), ""))
	}
	return problems
}
