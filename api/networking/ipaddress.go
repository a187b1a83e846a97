// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"net/netip"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// IPAddresses are addresses that are taken, and by whom.
var IPAddresses = resource.WithList(resource.Define(resource.Definition[networkingv1.IPAddress]{
	Group: "networking.k8s.io", Version: "v1", Kind: "IPAddress", Resource: "ipaddresses",
	ShortNames:  []string{"ip"},
	Scope:       resource.Cluster,
	StoragePath: "ipaddresses",
	Name: func(name string, _ bool) []string {
		var out []string
		for _, problem := range validation.IsValidIP(nil, name) {
			out = append(out, problem.Detail)
		}
		return out
	},
	Validate: validateAddress,
	ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
		at := field.NewPath("spec", "parentRef")
		if len(core.Immutable(a.Spec.ParentRef, old.Spec.ParentRef, at)) == 0 {
			return nil
		}
		return field.ErrorList{field.Invalid(at, core.Shown(a.Spec.ParentRef), "field is immutable")}
	},
	Columns: []resource.Column[networkingv1.IPAddress]{
		{Name: "ParentRef", Value: func(a *networkingv1.IPAddress, _ time.Time) any {
			r := a.Spec.ParentRef
			if r == nil {
				return "<none>"
			}
			text := r.Resource
			if r.Group != "" {
				text += "." + r.Group
			}
			if r.Namespace != "" {
				text += "/" + r.Namespace
			}
			return text + "/" + r.Name
		}},
		{Value: func(a *networkingv1.IPAddress, now time.Time) any { return core.Age(a.CreationTimestamp, now) }}, // no header, as in Kubernetes
	},
}), func() runtime.Object { return new(networkingv1.IPAddressList) })

func validateAddress(a *networkingv1.IPAddress) (problems field.ErrorList) {
	at := field.NewPath("spec", "parentRef")
	r := a.Spec.ParentRef
	if r == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	if r.Group != "" {
		problems = append(problems, core.Subdomain(r.Group, at.Child("group"))...)
	}
	problems = append(problems, segment(r.Resource, at.Child("resource"))...)
	problems = append(problems, segment(r.Name, at.Child("name"))...)
	if r.Namespace != "" {
		problems = append(problems, segment(r.Namespace, at.Child("namespace"))...)
	}
	return problems
}

// Labels of the addresses of Services.
const (
	LabelFamily    = "ipaddress.kubernetes.io/ip-family"
	LabelManagedBy = "ipaddress.kubernetes.io/managed-by"
	// Allocator is who makes the addresses of Services.
	Allocator = "ipallocator.k8s.io"
)

// ServiceAddress is the address of a Service.
func ServiceAddress(ip netip.Addr, namespace, name string) *networkingv1.IPAddress {
	family := "IPv4"
	if ip.Is6() {
		family = "IPv6"
	}
	a := &networkingv1.IPAddress{Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name},
	}}
	a.Name = ip.String()
	a.Labels = map[string]string{LabelFamily: family, LabelManagedBy: Allocator}
	return a
}
