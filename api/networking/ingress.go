// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ClassAnnotation is how Ingresses named their class before there was a field.
const ClassAnnotation = "kubernetes.io/ingress.class"

// Ingresses lead HTTP requests to Services.
var Ingresses = resource.WithList(resource.Define(resource.Definition[networkingv1.Ingress]{
	Group: "networking.k8s.io", Version: "v1", Kind: "Ingress", Resource: "ingresses",
	ShortNames:  []string{"ing"},
	Scope:       resource.Namespaced,
	StoragePath: "ingress",
	PrepareCreate: func(i *networkingv1.Ingress) {
		i.Status = networkingv1.IngressStatus{}
		i.Generation = 1
	},
	PrepareUpdate: func(i, old *networkingv1.Ingress) {
		i.Status, i.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(i.Spec, old.Spec) {
			i.Generation++
		}
	},
	Validate:       func(i *networkingv1.Ingress) field.ErrorList { return validateIngress(&i.Spec, field.NewPath("spec")) },
	ValidateCreate: validateNewIngress,
	WarningsCreate: func(i *networkingv1.Ingress) []string {
		if _, ok := i.Annotations[ClassAnnotation]; ok && i.Spec.IngressClassName == nil {
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ClassAnnotation)}
		}
		return nil
	},
	Columns: []resource.Column[networkingv1.Ingress]{
		{Name: "Class", Value: func(i *networkingv1.Ingress, _ time.Time) any {
			if i.Spec.IngressClassName == nil {
				return "<none>"
			}
			return *i.Spec.IngressClassName
		}},
		{Name: "Hosts", Value: func(i *networkingv1.Ingress, _ time.Time) any { return hostsText(i.Spec.Rules) }},
		{Name: "Address", Value: func(i *networkingv1.Ingress, _ time.Time) any { return addressText(&i.Status) }},
		{Name: "Ports", Value: func(i *networkingv1.Ingress, _ time.Time) any {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}},
	},
	Subresources: resource.Subresources[networkingv1.Ingress]{
		Status: &resource.Status[networkingv1.Ingress]{Prepare: func(i, old *networkingv1.Ingress) {
			status := i.Status
			*i = *old.DeepCopy()
			i.Status = status
		}, Validate: func(i, _ *networkingv1.Ingress) field.ErrorList { return validateIngressStatus(&i.Status) }, Warnings: addressWarnings},
	},
}), func() runtime.Object { return new(networkingv1.IngressList) })

// hostsMax is how many hosts a table shows.
const hostsMax = 3

func hostsText(rules []networkingv1.IngressRule) string {
	var hosts []string
	more := 0
	for _, r := range rules {
		if len(hosts) == hostsMax {
			more++
		} else if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	text := strings.Join(hosts, ",")
	if more > 0 {
		text += fmt.Sprintf(" + %d more...", more)
	}
	return text
}

func addressText(s *networkingv1.IngressStatus) string {
	var all []string
	for _, i := range s.LoadBalancer.Ingress {
		if i.IP != "" {
			all = append(all, i.IP)
		} else if i.Hostname != "" {
			all = append(all, i.Hostname)
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ",")
}

func validateIngressStatus(s *networkingv1.IngressStatus) (problems field.ErrorList) {
	for i, in := range s.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			problems = append(problems, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, nil)...)
		}
		if in.Hostname == "" {
			continue
		}
		for _, m := range validation.IsDNS1123Subdomain(in.Hostname) {
			problems = append(problems, field.Invalid(at.Child("hostname"), in.Hostname, m))
		}
		if _, err := netip.ParseAddr(in.Hostname); err == nil {
			problems = append(problems, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return problems
}

func addressWarnings(i *networkingv1.Ingress) (out []string) {
	for n, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" && len(validation.IsValidIPForLegacyField(nil, in.IP, true, nil)) == 0 {
			out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(n), in.IP)...)
		}
	}
	return out
}
