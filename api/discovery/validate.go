// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// Bounds of one slice.
const (
	endpointsMax = 1000
	portsMax     = 20000
	addressesMax = 100
	zonesMax     = 8
)

// dropEmpty makes lists without elements absent, as they are when they come back from storage.
func dropEmpty(s *discoveryv1.EndpointSlice) {
	if len(s.Endpoints) == 0 {
		s.Endpoints = nil
	}
	if len(s.Ports) == 0 {
		s.Ports = nil
	}
}

// dropTopology removes the field of v1beta1 that nothing may write any more.
func dropTopology(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

func validateSlice(s *discoveryv1.EndpointSlice, endpoints bool) field.ErrorList {
	var problems field.ErrorList
	known := []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	switch s.AddressType {
	case "":
		problems = append(problems, field.Required(field.NewPath("addressType"), ""))
	case discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		problems = append(problems, field.NotSupported(field.NewPath("addressType"), s.AddressType, known))
	}
	problems = append(problems, validatePorts(s.Ports, field.NewPath("ports"))...)
	at := field.NewPath("endpoints")
	if !endpoints {
		return problems
	}
	if len(s.Endpoints) > endpointsMax {
		return append(problems, field.TooMany(at, len(s.Endpoints), endpointsMax))
	}
	for i := range s.Endpoints {
		problems = append(problems, validateEndpoint(&s.Endpoints[i], s.AddressType, at.Index(i))...)
	}
	return problems
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, at *field.Path) field.ErrorList {
	problems := validateAddresses(e.Addresses, kind, at.Child("addresses"))
	if e.NodeName != nil {
		for _, m := range validation.IsDNS1123Subdomain(*e.NodeName) {
			problems = append(problems, field.Invalid(at.Child("nodeName"), *e.NodeName, m))
		}
	}
	if e.Hostname != nil {
		for _, m := range validation.IsDNS1123Label(*e.Hostname) {
			problems = append(problems, field.Invalid(at.Child("hostname"), *e.Hostname, m))
		}
	}
	if e.Hints == nil {
		return problems
	}
	var zones, nodes []string
	for _, z := range e.Hints.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range e.Hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	problems = append(problems, validateHints(zones, validation.IsValidLabelValue, at.Child("hints", "forZones"))...)
	return append(problems, validateHints(nodes, validation.IsDNS1123Subdomain, at.Child("hints", "forNodes"))...)
}

func validateHints(names []string, form func(string) []string, at *field.Path) (problems field.ErrorList) {
	if len(names) > zonesMax {
		return field.ErrorList{field.TooMany(at, len(names), zonesMax)}
	}
	seen := sets.New[string]()
	for i, name := range names {
		at := at.Index(i).Child("name")
		if seen.Has(name) {
			problems = append(problems, field.Duplicate(at, name))
		}
		seen.Insert(name)
		for _, m := range form(name) {
			problems = append(problems, field.Invalid(at, name, m))
		}
	}
	return problems
}

func validateAddresses(addresses []string, kind discoveryv1.AddressType, at *field.Path) (problems field.ErrorList) {
	switch n := len(addresses); {
	case n == 0:
		return field.ErrorList{field.Required(at, "must contain at least 1 address")}
	case n > addressesMax:
		problems = append(problems, field.TooMany(at, n, addressesMax))
	}
	for i, address := range addresses {
		switch kind {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			problems = append(problems, core.EndpointAddress(address, string(kind), at, at.Index(i))...)
		case discoveryv1.AddressTypeFQDN:
			for _, m := range validation.IsDNS1123Subdomain(address) {
				problems = append(problems, field.Invalid(at.Index(i), address, m))
			}
		}
	}
	return problems
}

func validatePorts(ports []discoveryv1.EndpointPort, at *field.Path) (problems field.ErrorList) {
	if len(ports) > portsMax {
		return field.ErrorList{field.TooMany(at, len(ports), portsMax)}
	}
	names := sets.New[string]()
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != nil && *p.Name != "" {
			for _, m := range validation.IsDNS1123Label(*p.Name) {
				problems = append(problems, field.Invalid(at.Child("name"), *p.Name, m))
			}
		}
		if p.Name != nil {
			if names.Has(*p.Name) {
				problems = append(problems, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(*p.Name)
		}
		switch {
		case p.Protocol == nil:
			problems = append(problems, field.Required(at.Child("protocol"), ""))
		case *p.Protocol != corev1.ProtocolTCP && *p.Protocol != corev1.ProtocolUDP && *p.Protocol != corev1.ProtocolSCTP:
			problems = append(problems, field.NotSupported(at.Child("protocol"), *p.Protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}))
		}
		if p.AppProtocol != nil {
			for _, m := range validation.IsQualifiedName(*p.AppProtocol) {
				problems = append(problems, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, m))
			}
		}
	}
	return problems
}
