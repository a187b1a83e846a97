// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// EndpointSlices list the addresses behind Services.
var EndpointSlices = resource.WithList(resource.Define(resource.Definition[discoveryv1.EndpointSlice]{
	Group: "discovery.k8s.io", Version: "v1", Kind: "EndpointSlice", Resource: "endpointslices",
	Scope:       resource.Namespaced,
	StoragePath: "endpointslices",
}), func() runtime.Object { return new(discoveryv1.EndpointSliceList) })
