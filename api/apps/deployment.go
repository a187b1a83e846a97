// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Deployments roll out pods in versions, through ReplicaSets.
var Deployments = resource.WithList(resource.Define(resource.Definition[appsv1.Deployment]{
	Group: "apps", Version: "v1", Kind: "Deployment", Resource: "deployments",
	ShortNames:  []string{"deploy"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "deployments",
	Subresources: resource.Subresources[appsv1.Deployment]{Status: &resource.Status[appsv1.Deployment]{Prepare: func(obj, old *appsv1.Deployment) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(appsv1.DeploymentList) })
