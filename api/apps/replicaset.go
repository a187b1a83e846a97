// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ReplicaSets keep a set number of identical pods running.
var ReplicaSets = resource.WithList(resource.Define(resource.Definition[appsv1.ReplicaSet]{
	Group: "apps", Version: "v1", Kind: "ReplicaSet", Resource: "replicasets",
	ShortNames:  []string{"rs"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "replicasets",
	Subresources: resource.Subresources[appsv1.ReplicaSet]{Status: &resource.Status[appsv1.ReplicaSet]{Prepare: func(obj, old *appsv1.ReplicaSet) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(appsv1.ReplicaSetList) })
