// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// ResourceClaims ask for devices.
var ResourceClaims = resource.WithList(resource.Define(resource.Definition[resourcev1.ResourceClaim]{
	Group: "resource.k8s.io", Version: "v1", Kind: "ResourceClaim", Resource: "resourceclaims",
	Scope:       resource.Namespaced,
	StoragePath: "resourceclaims",
	Default: func(c *resourcev1.ResourceClaim) {
		defaultClaim(&c.Spec)
		if c.Status.Allocation != nil {
			for i := range c.Status.Allocation.Devices.Results {
				defaultTolerations(c.Status.Allocation.Devices.Results[i].Tolerations)
			}
		}
	},
	PrepareCreate: func(c *resourcev1.ResourceClaim) {
		c.Status = resourcev1.ResourceClaimStatus{}
		dropEmpty(&c.Spec)
	},
	PrepareUpdate: func(c, old *resourcev1.ResourceClaim) {
		c.Status = *old.Status.DeepCopy()
		keepEmpty(&c.Spec, &old.Spec)
	},
	ValidateCreate: func(c *resourcev1.ResourceClaim) field.ErrorList { return ValidateClaim(c, nil) },
	ValidateUpdate: func(c, old *resourcev1.ResourceClaim) field.ErrorList {
		return immutableShown(c.Spec, old.Spec, field.NewPath("spec"))
	},
	Columns: []resource.Column[resourcev1.ResourceClaim]{
		{Name: "State", Value: func(c *resourcev1.ResourceClaim, _ time.Time) any { return stateText(c) }},
	},
	Subresources: resource.Subresources[resourcev1.ResourceClaim]{
		Status: &resource.Status[resourcev1.ResourceClaim]{Prepare: func(c, old *resourcev1.ResourceClaim) {
			status := c.Status
			*c = *old.DeepCopy()
			c.Status = status
		}, Validate: ValidateStatus, KeepMetadata: true},
	},
}), func() runtime.Object { return new(resourcev1.ResourceClaimList) })

// ResourceClaimTemplates are what claims of pods are made from.
var ResourceClaimTemplates = resource.WithList(resource.Define(resource.Definition[resourcev1.ResourceClaimTemplate]{
	Group: "resource.k8s.io", Version: "v1", Kind: "ResourceClaimTemplate", Resource: "resourceclaimtemplates",
	Scope:          resource.Namespaced,
	StoragePath:    "resourceclaimtemplates",
	Default:        func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
	PrepareCreate:  func(t *resourcev1.ResourceClaimTemplate) { dropEmpty(&t.Spec.Spec) },
	PrepareUpdate:  func(t, old *resourcev1.ResourceClaimTemplate) { keepEmpty(&t.Spec.Spec, &old.Spec.Spec) },
	ValidateCreate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList { return ValidateTemplate(t, nil) },
	ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
		return ValidateTemplateChange(t, old, nil)
	},
}), func() runtime.Object { return new(resourcev1.ResourceClaimTemplateList) })

// dropEmpty stores a list without items as none, as it is read again.
func dropEmpty(s *resourcev1.ResourceClaimSpec) {
	if len(s.Devices.Requests) == 0 {
		s.Devices.Requests = nil
	}
}

// keepEmpty is dropEmpty for an update, which may not take items away: the error shows what was given.
func keepEmpty(s, old *resourcev1.ResourceClaimSpec) {
	if len(old.Devices.Requests) == 0 {
		dropEmpty(s)
	}
}

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if e := r.Exactly; e != nil {
			defaultAmount(&e.AllocationMode, &e.Count)
			defaultTolerations(e.Tolerations)
		}
		for j := range r.FirstAvailable {
			f := &r.FirstAvailable[j]
			defaultAmount(&f.AllocationMode, &f.Count)
			defaultTolerations(f.Tolerations)
		}
	}
}

func defaultAmount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	if *mode == "" {
		*mode = resourcev1.DeviceAllocationModeExactCount
	}
	if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
		*count = 1
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func stateText(c *resourcev1.ResourceClaim) string {
	var all []string
	if c.DeletionTimestamp != nil {
		all = append(all, "deleted")
	}
	if c.Status.Allocation == nil {
		if c.DeletionTimestamp == nil {
			all = append(all, "pending")
		}
	} else {
		all = append(all, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			all = append(all, "reserved")
		}
	}
	return strings.Join(all, ",")
}

// immutableShown refuses changes and shows the value with the names of Go fields.
func immutableShown(now, old any, at *field.Path) field.ErrorList {
	if len(core.Immutable(now, old, at)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, core.Shown(now), "field is immutable")}
}
