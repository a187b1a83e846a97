// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Leases are held and renewed: heartbeats of nodes, locks of leaders.
var Leases = resource.WithList(resource.Define(resource.Definition[coordinationv1.Lease]{
	Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Resource: "leases",
	Scope:          resource.Namespaced,
	CreateOnUpdate: true,
	NeedsRevision:  true,
	PrepareCreate:  func(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil }, // their feature is off
	PrepareUpdate: func(l, old *coordinationv1.Lease) {
		if old.Spec.Strategy == nil && old.Spec.PreferredHolder == nil {
			l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
		}
	},
	Validate: func(l *coordinationv1.Lease) (problems field.ErrorList) {
		at := field.NewPath("spec")
		if s := l.Spec.LeaseDurationSeconds; s != nil && *s <= 0 {
			problems = append(problems, field.Invalid(at.Child("leaseDurationSeconds"), *s, "must be greater than 0"))
		}
		if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
			problems = append(problems, field.Invalid(at.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
		}
		return problems
	},
	Columns: []resource.Column[coordinationv1.Lease]{
		{Name: "Holder", Value: func(l *coordinationv1.Lease, _ time.Time) any {
			if l.Spec.HolderIdentity == nil {
				return ""
			}
			return *l.Spec.HolderIdentity
		}},
	},
	StoragePath: "leases",
}), func() runtime.Object { return new(coordinationv1.LeaseList) })
