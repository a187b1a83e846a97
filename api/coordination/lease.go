// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Leases are held and renewed: heartbeats of nodes, locks of leaders.
var Leases = resource.WithList(resource.Define(resource.Definition[coordinationv1.Lease]{
	Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Resource: "leases",
	Scope:       resource.Namespaced,
	StoragePath: "leases",
}), func() runtime.Object { return new(coordinationv1.LeaseList) })
