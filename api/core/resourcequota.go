// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ResourceQuotas bound what a namespace may use in all.
var ResourceQuotas = resource.WithList(resource.Define(resource.Definition[corev1.ResourceQuota]{
	Group: "", Version: "v1", Kind: "ResourceQuota", Resource: "resourcequotas",
	ShortNames: []string{"quota"},
	Scope:      resource.Namespaced,
	Subresources: resource.Subresources[corev1.ResourceQuota]{Status: &resource.Status[corev1.ResourceQuota]{Prepare: func(obj, old *corev1.ResourceQuota) {
		status := obj.Status
		*obj = *old.DeepCopy()
		obj.Status = status
	}}},
}), func() runtime.Object { return new(corev1.ResourceQuotaList) })
