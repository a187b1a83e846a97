// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Bounds of tokens for drivers and of how often they are asked for limits, in seconds.
const (
	tokenSecondsMin  = 10 * 60
	tokenSecondsMax  = 1 << 32
	updatePeriodLess = 10
)

// CSIDrivers say how a volume driver wants to be used.
var CSIDrivers = resource.WithList(resource.Define(resource.Definition[storagev1.CSIDriver]{
	Group: "storage.k8s.io", Version: "v1", Kind: "CSIDriver", Resource: "csidrivers",
	Scope:         resource.Cluster,
	NeedsRevision: true,
	StoragePath:   "csidrivers",
	Default: func(d *storagev1.CSIDriver) {
		core.SetDefault(&d.Spec.AttachRequired, true)
		core.SetDefault(&d.Spec.PodInfoOnMount, false)
		core.SetDefault(&d.Spec.StorageCapacity, false)
		core.SetDefault(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		if len(d.Spec.VolumeLifecycleModes) == 0 {
			d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
		core.SetDefault(&d.Spec.RequiresRepublish, false)
		core.SetDefault(&d.Spec.SELinuxMount, false)
	},
	PrepareCreate: dropUnserved,
	PrepareUpdate: func(d, old *storagev1.CSIDriver) {
		dropUnserved(d)
		d.Generation = old.Generation
		if !equality.Semantic.DeepEqual(d.Spec, old.Spec) {
			d.Generation++
		}
	},
	Validate: validateDriver,
	ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
		at := field.NewPath("spec")
		problems := core.Immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, at.Child("attachedRequired"))
		return append(problems, core.Immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, at.Child("volumeLifecycleModes"))...)
	},
	WarningsCreate: tokenWarnings,
	WarningsUpdate: func(d, old *storagev1.CSIDriver) []string {
		if equality.Semantic.DeepEqual(d.Spec.TokenRequests, old.Spec.TokenRequests) {
			return nil
		}
		return tokenWarnings(d)
	},
	Columns: []resource.Column[storagev1.CSIDriver]{
		{Name: "AttachRequired", Type: "boolean", Value: func(d *storagev1.CSIDriver, _ time.Time) any {
			return d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
		}},
		{Name: "PodInfoOnMount", Type: "boolean", Value: func(d *storagev1.CSIDriver, _ time.Time) any { return isTrue(d.Spec.PodInfoOnMount) }},
		{Name: "StorageCapacity", Type: "boolean", Value: func(d *storagev1.CSIDriver, _ time.Time) any { return isTrue(d.Spec.StorageCapacity) }},
		{Name: "TokenRequests", Value: func(d *storagev1.CSIDriver, _ time.Time) any {
			if d.Spec.TokenRequests == nil {
				return "<unset>"
			}
			var all []string
			for _, t := range d.Spec.TokenRequests {
				all = append(all, t.Audience)
			}
			return strings.Join(all, ",")
		}},
		{Name: "RequiresRepublish", Type: "boolean", Value: func(d *storagev1.CSIDriver, _ time.Time) any { return isTrue(d.Spec.RequiresRepublish) }},
		{Name: "Modes", Value: func(d *storagev1.CSIDriver, _ time.Time) any {
			var all []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				all = append(all, string(m))
			}
			if len(all) == 0 {
				return "<none>"
			}
			return strings.Join(all, ",")
		}},
	},
}), func() runtime.Object { return new(storagev1.CSIDriverList) })

func isTrue(b *bool) bool { return b != nil && *b }

// dropUnserved removes fields of features that are not on by default.
func dropUnserved(d *storagev1.CSIDriver) { d.Spec.PreventPodSchedulingIfMissing = nil }

func validateDriver(d *storagev1.CSIDriver) (problems field.ErrorList) {
	s, at := &d.Spec, field.NewPath("spec")
	if s.AttachRequired == nil {
		problems = append(problems, field.Required(at.Child("attachedRequired"), ""))
	}
	if s.PodInfoOnMount == nil {
		problems = append(problems, field.Required(at.Child("podInfoOnMount"), ""))
	}
	if s.StorageCapacity == nil {
		problems = append(problems, field.Required(at.Child("storageCapacity"), ""))
	}
	if s.FSGroupPolicy != nil {
		problems = append(problems, core.Allowed(at.Child("fsGroupPolicy"), *s.FSGroupPolicy,
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	problems = append(problems, validateTokenRequests(s.TokenRequests, at.Child("tokenRequests"))...)
	for _, m := range s.VolumeLifecycleModes {
		problems = append(problems, core.Allowed(at.Child("volumeLifecycleModes"), m, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < updatePeriodLess {
		problems = append(problems, field.Invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds"))
	}
	if s.ServiceAccountTokenInSecrets != nil && len(s.TokenRequests) == 0 {
		problems = append(problems, field.Invalid(at.Child("serviceAccountTokenInSecrets"), *s.ServiceAccountTokenInSecrets,
			"serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return problems
}

func validateTokenRequests(requests []storagev1.TokenRequest, at *field.Path) (problems field.ErrorList) {
	audiences := sets.New[string]()
	for i, r := range requests {
		at := at.Index(i)
		if audiences.Has(r.Audience) {
			problems = append(problems, field.Duplicate(at.Child("audience"), r.Audience))
		}
		audiences.Insert(r.Audience)
		if r.ExpirationSeconds == nil {
			continue
		}
		if n := *r.ExpirationSeconds; n < tokenSecondsMin {
			problems = append(problems, field.Invalid(at.Child("expirationSeconds"), n, "may not specify a duration less than 10 minutes"))
		} else if n > tokenSecondsMax {
			problems = append(problems, field.Invalid(at.Child("expirationSeconds"), n, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return problems
}

func tokenWarnings(d *storagev1.CSIDriver) []string {
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}
