// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Leases are held and renewed: heartbeats of nodes, locks of leaders.
var Leases = resource.WithList(resource.Define(resource.Definition[coordinationv1.Lease]{
	Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Resource: "leases",
	Scope:          resource.Namespaced,
	CreateOnUpdate: true,
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
