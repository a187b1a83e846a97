// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"slices"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

const nodeIDMax = 256

// CSINodes list the volume drivers of each node.
var CSINodes = resource.WithList(resource.Define(resource.Definition[storagev1.CSINode]{
	Group: "storage.k8s.io", Version: "v1", Kind: "CSINode", Resource: "csinodes",
	Scope:          resource.Cluster,
	NeedsRevision:  true,
	StoragePath:    "csinodes",
	PrepareCreate:  func(n *storagev1.CSINode) { dropEmptyLists(n, nil) },
	PrepareUpdate:  func(n, old *storagev1.CSINode) { dropEmptyLists(n, old.Spec.Drivers) },
	Validate:       validateCSINode,
	ValidateUpdate: validateCSINodeChange,
	Columns: []resource.Column[storagev1.CSINode]{
		{Name: "Drivers", Type: "integer", Value: func(n *storagev1.CSINode, _ time.Time) any { return int64(len(n.Spec.Drivers)) }},
	},
}), func() runtime.Object { return new(storagev1.CSINodeList) })

// dropEmptyLists makes empty lists ones that are not there, as they come back from where they are stored. Before that their writer owns
// them. What an update may not make empty stays, for the error to show it.
func dropEmptyLists(n *storagev1.CSINode, old []storagev1.CSINodeDriver) {
	if len(n.Spec.Drivers) == 0 {
		n.Spec.Drivers = nil
	}
	for i := range n.Spec.Drivers {
		d := &n.Spec.Drivers[i]
		had := slices.ContainsFunc(old, func(o storagev1.CSINodeDriver) bool { return o.Name == d.Name && len(o.TopologyKeys) > 0 })
		if len(d.TopologyKeys) == 0 && !had {
			d.TopologyKeys = nil
		}
	}
}

func validateCSINode(n *storagev1.CSINode) (problems field.ErrorList) {
	names := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		problems = append(problems, core.DriverName(d.Name, at.Child("name"))...)
		problems = append(problems, core.Needed(at, "nodeID", d.NodeID)...)
		if len(d.NodeID) > nodeIDMax {
			problems = append(problems, field.Invalid(at.Child("nodeID"), d.NodeID, "must be 256 characters or less"))
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*d.Allocatable.Count), at.Child("allocatable", "count"))...)
		}
		if names.Has(d.Name) {
			problems = append(problems, field.Duplicate(at.Child("name"), d.Name))
		}
		names.Insert(d.Name)
		problems = append(problems, validateTopologyKeys(d.TopologyKeys, at)...)
	}
	return problems
}

func validateTopologyKeys(keys []string, at *field.Path) (problems field.ErrorList) {
	seen := sets.New[string]()
	for _, key := range keys {
		if key == "" {
			problems = append(problems, field.Required(at, ""))
		}
		if seen.Has(key) {
			problems = append(problems, field.Duplicate(at, key))
		}
		seen.Insert(key)
		for _, m := range validation.IsQualifiedName(key) {
			problems = append(problems, field.Invalid(at, key, m))
		}
	}
	return problems
}

// validateCSINodeChange lets drivers come and go, and change what they can take, but nothing else of them.
func validateCSINodeChange(n, old *storagev1.CSINode) (problems field.ErrorList) {
	for i := range n.Spec.Drivers {
		for j := range old.Spec.Drivers {
			now, was := n.Spec.Drivers[i], old.Spec.Drivers[j]
			if now.Name != was.Name {
				continue
			}
			now.Allocatable, was.Allocatable = nil, nil
			problems = append(problems, immutableShown(now, was, field.NewPath("spec", "drivers"))...)
		}
	}
	return problems
}
