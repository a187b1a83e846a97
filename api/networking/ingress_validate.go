// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// validateNewIngress has what old objects may break.
func validateNewIngress(i *networkingv1.Ingress) (problems field.ErrorList) {
	class, annotated := i.Annotations[ClassAnnotation]
	if annotated && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		at := field.NewPath("annotations").Child(ClassAnnotation)
		problems = append(problems, field.Invalid(at, class, "must match `ingressClassName` when both are specified"))
	}
	return problems
}

func validateIngress(s *networkingv1.IngressSpec, at *field.Path) (problems field.ErrorList) {
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		problems = append(problems, field.Invalid(at, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		problems = append(problems, validateBackend(s.DefaultBackend, at.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		problems = append(problems, validateRule(&s.Rules[i], at.Child("rules").Index(i))...)
	}
	for i, t := range s.TLS {
		at := at.Child("tls").Index(i)
		for j, host := range t.Hosts {
			problems = append(problems, validateHost(host, at.Child("hosts").Index(j))...)
		}
		if t.SecretName != "" {
			problems = append(problems, core.Subdomain(t.SecretName, at.Child("secretName"))...)
		}
	}
	if s.IngressClassName != nil {
		problems = append(problems, core.Subdomain(*s.IngressClassName, at.Child("ingressClassName"))...)
	}
	return problems
}

func validateHost(host string, at *field.Path) (problems field.ErrorList) {
	check := validation.IsDNS1123Subdomain
	if strings.Contains(host, "*") {
		check = validation.IsWildcardDNS1123Subdomain
	}
	for _, m := range check(host) {
		problems = append(problems, field.Invalid(at, host, m))
	}
	return problems
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) (problems field.ErrorList) {
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			problems = append(problems, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		problems = append(problems, validateHost(r.Host, at.Child("host"))...)
	}
	if r.HTTP == nil {
		return problems
	}
	at = at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		return append(problems, field.Required(at, ""))
	}
	for i := range r.HTTP.Paths {
		problems = append(problems, validatePath(&r.HTTP.Paths[i], at.Index(i))...)
	}
	return problems
}

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) (problems field.ErrorList) {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	wrong := func(why string) {
		problems = append(problems, field.Invalid(at.Child("path"), p.Path, why))
	}
	absolute := strings.HasPrefix(p.Path, "/")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !absolute {
			wrong("must be an absolute path")
		}
		if p.Path != "" {
			for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
				if strings.Contains(p.Path, part) {
					wrong("must not contain '" + part + "'")
				}
			}
			for _, end := range []string{"/..", "/."} {
				if strings.HasSuffix(p.Path, end) {
					wrong("cannot end with '" + end + "'")
				}
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !absolute {
			wrong("must be an absolute path")
		}
	default:
		problems = append(problems, field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(problems, validateBackend(&p.Backend, at.Child("backend"))...)
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateLocal(b.Resource, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	var problems field.ErrorList
	service := at.Child("service")
	if b.Service.Name == "" {
		problems = append(problems, field.Required(service.Child("name"), ""))
	} else {
		problems = append(problems, core.Label(b.Service.Name, service.Child("name"))...)
	}
	port := b.Service.Port
	switch {
	case port.Name != "" && port.Number != 0:
		problems = append(problems, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name != "":
		for _, m := range validation.IsValidPortName(port.Name) {
			problems = append(problems, field.Invalid(service.Child("port", "name"), port.Name, m))
		}
	case port.Number == 0:
		problems = append(problems, field.Required(at, "port name or number is required"))
	default:
		for _, m := range validation.IsValidPortNum(int(port.Number)) {
			problems = append(problems, field.Invalid(service.Child("port", "number"), port.Number, m))
		}
	}
	return problems
}

func validateLocal(r *corev1.TypedLocalObjectReference, at *field.Path) (problems field.ErrorList) {
	if r.APIGroup != nil {
		problems = append(problems, core.Subdomain(*r.APIGroup, at.Child("apiGroup"))...)
	}
	problems = append(problems, segment(r.Kind, at.Child("kind"))...)
	return append(problems, segment(r.Name, at.Child("name"))...)
}

// segment checks what becomes a part of a path.
func segment(s string, at *field.Path) (problems field.ErrorList) {
	if s == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	for _, m := range path.IsValidPathSegmentName(s) {
		problems = append(problems, field.Invalid(at, s, m))
	}
	return problems
}
