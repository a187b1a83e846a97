// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Secrets hold data that fewer may read.
var Secrets = resource.WithList(resource.Define(resource.Definition[corev1.Secret]{
	Group: "", Version: "v1", Kind: "Secret", Resource: "secrets",
	Scope: resource.Namespaced,
}), func() runtime.Object { return new(corev1.SecretList) })
