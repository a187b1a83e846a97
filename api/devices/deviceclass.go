// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// DeviceClasses name devices that claims can ask for.
var DeviceClasses = resource.WithList(resource.Define(resource.Definition[resourcev1.DeviceClass]{
	Group: "resource.k8s.io", Version: "v1", Kind: "DeviceClass", Resource: "deviceclasses",
	Scope:         resource.Cluster,
	StoragePath:   "deviceclasses",
	PrepareCreate: func(c *resourcev1.DeviceClass) { c.Generation = 1 },
	PrepareUpdate: func(c, old *resourcev1.DeviceClass) {
		c.Generation = old.Generation
		if !equality.Semantic.DeepEqual(c.Spec, old.Spec) {
			c.Generation++
		}
	},
	Columns: []resource.Column[resourcev1.DeviceClass]{},
}), func() runtime.Object { return new(resourcev1.DeviceClassList) })
