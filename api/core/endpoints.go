// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Endpoints lists the addresses behind a Service, in the old form.
var Endpoints = resource.WithList(resource.Define(resource.Definition[corev1.Endpoints]{
	Group: "", Version: "v1", Kind: "Endpoints", Resource: "endpoints",
	ShortNames:  []string{"ep"},
	Scope:       resource.Namespaced,
	StoragePath: "services/endpoints",
}), func() runtime.Object { return new(corev1.EndpointsList) })
