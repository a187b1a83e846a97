// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"regexp"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

const controllerMax = 250

// IngressClasses name what serves Ingresses.
var IngressClasses = resource.WithList(resource.Define(resource.Definition[networkingv1.IngressClass]{
	Group: "networking.k8s.io", Version: "v1", Kind: "IngressClass", Resource: "ingressclasses",
	Scope:       resource.Cluster,
	StoragePath: "ingressclasses",
	Default: func(c *networkingv1.IngressClass) {
		if c.Spec.Parameters != nil {
			core.SetDefault(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	PrepareCreate: func(c *networkingv1.IngressClass) { c.Generation = 1 },
	PrepareUpdate: func(c, old *networkingv1.IngressClass) {
		c.Generation = old.Generation
		if !equality.Semantic.DeepEqual(c.Spec, old.Spec) {
			c.Generation++
		}
	},
	ValidateCreate: validateIngressClass,
	ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
		problems := core.Immutable(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
		return append(problems, validateIngressClass(c)...)
	},
	Columns: []resource.Column[networkingv1.IngressClass]{
		{Name: "Name", Value: func(c *networkingv1.IngressClass, _ time.Time) any {
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				return c.Name + " (default)"
			}
			return c.Name
		}},
		{Name: "Controller", Value: func(c *networkingv1.IngressClass, _ time.Time) any { return c.Spec.Controller }},
		{Name: "Parameters", Value: func(c *networkingv1.IngressClass, _ time.Time) any {
			p := c.Spec.Parameters
			if p == nil {
				return "<none>"
			}
			text := p.Kind
			if p.APIGroup != nil {
				text += "." + *p.APIGroup
			}
			return text + "/" + p.Name
		}},
	},
}), func() runtime.Object { return new(networkingv1.IngressClassList) })

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateController(c.Spec.Controller, at.Child("controller"))
	if p := c.Spec.Parameters; p != nil {
		problems = append(problems, validateClassParameters(p, at.Child("parameters"))...)
	}
	return problems
}

func validateController(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var problems field.ErrorList
	if len(name) > controllerMax {
		problems = append(problems, field.TooLong(at, "", controllerMax))
	}
	domain, rest, _ := strings.Cut(name, "/")
	if domain == "" || rest == "" {
		return append(problems, field.Invalid(at, name, "must be a domain-prefixed path (such as \"acme.io/foo\")"))
	}
	problems = append(problems, core.Subdomain(domain, at)...)
	const form = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+"
	if !regexp.MustCompile("^" + form + "$").MatchString(rest) {
		problems = append(problems, field.Invalid(at, rest, "Invalid path (regex used for validation is '"+form+"')"))
	}
	return problems
}

func validateClassParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) (problems field.ErrorList) {
	if p.APIGroup != nil {
		problems = append(problems, core.Subdomain(*p.APIGroup, at.Child("apiGroup"))...)
	}
	problems = append(problems, segment(p.Kind, at.Child("kind"))...)
	problems = append(problems, segment(p.Name, at.Child("name"))...)
	if p.Scope == nil {
		return append(problems, field.Required(at.Child("scope"), ""))
	}
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			problems = append(problems, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
		} else {
			problems = append(problems, core.Label(*p.Namespace, at.Child("namespace"))...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			problems = append(problems, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		problems = append(problems, field.NotSupported(at.Child("scope"), *p.Scope, []string{
			networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	}
	return problems
}
