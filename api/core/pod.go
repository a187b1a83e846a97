// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Pods are groups of containers that share a network and live and die together.
var Pods = resource.WithList(resource.Define(resource.Definition[corev1.Pod]{
	Group: "", Version: "v1", Kind: "Pod", Resource: "pods",
	ShortNames: []string{"po"},
	Categories: []string{"all"},
	Scope:      resource.Namespaced,
	Subresources: resource.Subresources[corev1.Pod]{Status: &resource.Status[corev1.Pod]{Prepare: func(obj, old *corev1.Pod) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(corev1.PodList) })
