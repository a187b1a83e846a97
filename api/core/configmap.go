// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ConfigMaps hold configuration for pods.
var ConfigMaps = resource.WithList(resource.Define(resource.Definition[corev1.ConfigMap]{
	Group: "", Version: "v1", Kind: "ConfigMap", Resource: "configmaps",
	ShortNames: []string{"cm"},
	Scope:      resource.Namespaced,
}), func() runtime.Object { return new(corev1.ConfigMapList) })
