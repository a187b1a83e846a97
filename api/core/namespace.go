// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Namespaces divides the names of a cluster.
var Namespaces = resource.WithList(resource.Define(resource.Definition[corev1.Namespace]{
	Group: "", Version: "v1", Kind: "Namespace", Resource: "namespaces",
	ShortNames: []string{"ns"},
	Scope:      resource.Cluster,
	Subresources: resource.Subresources[corev1.Namespace]{Status: &resource.Status[corev1.Namespace]{Prepare: func(obj, old *corev1.Namespace) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(corev1.NamespaceList) })
