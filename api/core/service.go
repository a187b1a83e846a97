// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Services give sets of pods one name and address.
var Services = resource.WithList(resource.Define(resource.Definition[corev1.Service]{
	Group: "", Version: "v1", Kind: "Service", Resource: "services",
	ShortNames:  []string{"svc"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "services/specs",
	Subresources: resource.Subresources[corev1.Service]{Status: &resource.Status[corev1.Service]{Prepare: func(obj, old *corev1.Service) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(corev1.ServiceList) })
