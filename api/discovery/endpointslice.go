// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// EndpointSlices list the addresses behind Services.
var EndpointSlices = resource.WithList(resource.Define(resource.Definition[discoveryv1.EndpointSlice]{
	Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Resource: "endpointslices",
	Scope: resource.Namespaced,
	Default: func(s *discoveryv1.EndpointSlice) {
		for i := range s.Ports {
			if s.Ports[i].Name == nil {
				s.Ports[i].Name = new(string)
			}
			if s.Ports[i].Protocol == nil {
				tcp := corev1.ProtocolTCP
				s.Ports[i].Protocol = &tcp
			}
		}
	},
	PrepareCreate: func(s *discoveryv1.EndpointSlice) {
		s.Generation = 1
		dropEmpty(s)
		dropTopology(s)
	},
	PrepareUpdate: func(s, old *discoveryv1.EndpointSlice) {
		s.Generation = old.Generation
		dropEmpty(s)
		if !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) || !equality.Semantic.DeepEqual(s.Ports, old.Ports) ||
			!equality.Semantic.DeepEqual(s.Labels, old.Labels) {
			s.Generation++
		}
		dropTopology(s) // which counts as a change
	},
	ValidateCreate: func(s *discoveryv1.EndpointSlice) field.ErrorList { return validateSlice(s, true) },
	Warnings: func(s *discoveryv1.EndpointSlice) []string {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			return []string{"spec.addressType: FQDN endpoints are deprecated"}
		}
		return nil
	},
	ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
		// What an update does not touch is not judged anew.
		problems := validateSlice(s, !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints))
		return append(problems, apivalidation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
	},
	Columns: []resource.Column[discoveryv1.EndpointSlice]{
		{Name: "AddressType", Value: func(s *discoveryv1.EndpointSlice, _ time.Time) any { return string(s.AddressType) }},
		{Name: "Ports", Value: func(s *discoveryv1.EndpointSlice, _ time.Time) any { return portsText(s.Ports) }},
		{Name: "Endpoints", Value: func(s *discoveryv1.EndpointSlice, _ time.Time) any { return addressesText(s.Endpoints) }},
		{Name: "Age", Value: func(s *discoveryv1.EndpointSlice, now time.Time) any {
			return duration.HumanDuration(now.Sub(s.CreationTimestamp.Time))
		}},
	},
	StoragePath: "endpointslices",
}), func() runtime.Object { return new(discoveryv1.EndpointSliceList) })

func portsText(ports []discoveryv1.EndpointPort) string {
	var all []string
	for _, p := range ports {
		if p.Port != nil {
			all = append(all, fmt.Sprint(*p.Port))
		} else {
			all = append(all, "*")
		}
	}
	return atMostThree(all)
}

func addressesText(endpoints []discoveryv1.Endpoint) string {
	var all []string
	for _, e := range endpoints {
		all = append(all, e.Addresses...)
	}
	return atMostThree(all)
}

func atMostThree(all []string) string {
	switch n := len(all); {
	case n == 0:
		return "<unset>"
	case n > 3:
		return strings.Join(all[:3], ",") + fmt.Sprintf(" + %d more...", n-3)
	}
	return strings.Join(all, ",")
}
