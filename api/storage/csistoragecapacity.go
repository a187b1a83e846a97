// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// CSIStorageCapacities say how much storage of a class there is somewhere.
var CSIStorageCapacities = resource.WithList(resource.Define(resource.Definition[storagev1.CSIStorageCapacity]{
	Group: "storage.k8s.io", Version: "v1", Kind: "CSIStorageCapacity", Resource: "csistoragecapacities",
	Scope:         resource.Namespaced,
	NeedsRevision: true,
	StoragePath:   "csistoragecapacities",
	Name:          apivalidation.NameIsDNSSubdomain,
	Validate: func(c *storagev1.CSIStorageCapacity) (problems field.ErrorList) {
		if c.NodeTopology != nil {
			problems = append(problems, metavalidation.ValidateLabelSelector(c.NodeTopology, metavalidation.LabelSelectorValidationOptions{}, field.NewPath("nodeTopology"))...)
		}
		problems = append(problems, core.Subdomain(c.StorageClassName, field.NewPath("storageClassName"))...)
		if c.Capacity != nil && c.Capacity.Sign() < 0 {
			problems = append(problems, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), apivalidation.IsNegativeErrorMsg))
		}
		return problems
	},
	ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		problems := core.Immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))
		return append(problems, core.Immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
	},
	Columns: []resource.Column[storagev1.CSIStorageCapacity]{
		{Name: "Created At", Type: "date", Value: func(c *storagev1.CSIStorageCapacity, _ time.Time) any {
			return c.CreationTimestamp.UTC().Format(time.RFC3339)
		}},
	},
}), func() runtime.Object { return new(storagev1.CSIStorageCapacityList) })
