// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ResourceSlices list the devices that drivers have to give.
var ResourceSlices = resource.WithList(resource.Define(resource.Definition[resourcev1.ResourceSlice]{
	Group: "resource.k8s.io", Version: "v1", Kind: "ResourceSlice", Resource: "resourceslices",
	Scope:       resource.Cluster,
	StoragePath: "resourceslices",
	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
					now := metav1.NewTime(time.Now().Truncate(time.Second))
					t.TimeAdded = &now
				}
			}
		}
	},
	PrepareCreate: func(s *resourcev1.ResourceSlice) {
		s.Generation = 1
		dropUnserved(s)
	},
	PrepareUpdate: func(s, old *resourcev1.ResourceSlice) {
		s.Generation = old.Generation
		if !equality.Semantic.DeepEqual(s.Spec, old.Spec) {
			s.Generation++
		}
		dropUnserved(s) // which counts as a change
	},
	ValidateCreate: validateSlice,
	ValidateUpdate: validateSliceChange,
	Warnings: func(s *resourcev1.ResourceSlice) []string {
		if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
			return nil
		}
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
	},
	Columns: []resource.Column[resourcev1.ResourceSlice]{
		{Name: "Node", Value: func(s *resourcev1.ResourceSlice, _ time.Time) any {
			if s.Spec.NodeName == nil {
				return ""
			}
			return *s.Spec.NodeName
		}},
		{Name: "Driver", Value: func(s *resourcev1.ResourceSlice, _ time.Time) any { return s.Spec.Driver }},
		{Name: "Pool", Value: func(s *resourcev1.ResourceSlice, _ time.Time) any { return s.Spec.Pool.Name }},
	},
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		node := ""
		if s.Spec.NodeName != nil {
			node = *s.Spec.NodeName
		}
		return fields.Set{"spec.nodeName": node, "spec.driver": s.Spec.Driver}
	},
	FieldNames: []string{"spec.nodeName", "spec.driver"},
}), func() runtime.Object { return new(resourcev1.ResourceSliceList) })

// dropUnserved removes fields of features that are not on by default.
func dropUnserved(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResourceMappings = nil
		for name, a := range d.Attributes {
			if a.IntValues != nil || a.BoolValues != nil || a.StringValues != nil || a.VersionValues != nil {
				a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
				d.Attributes[name] = a
			}
		}
	}
}
