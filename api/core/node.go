// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Nodes run pods.
var Nodes = resource.WithList(resource.Define(resource.Definition[corev1.Node]{
	Group: "", Version: "v1", Kind: "Node", Resource: "nodes",
	ShortNames:  []string{"no"},
	Scope:       resource.Cluster,
	StoragePath: "minions",
	Subresources: resource.Subresources[corev1.Node]{Status: &resource.Status[corev1.Node]{Prepare: func(obj, old *corev1.Node) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(corev1.NodeList) })
