// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ServiceAccounts are the identities of programs.
var ServiceAccounts = resource.WithList(resource.Define(resource.Definition[corev1.ServiceAccount]{
	Group: "", Version: "v1", Kind: "ServiceAccount", Resource: "serviceaccounts",
	ShortNames: []string{"sa"},
	Scope:      resource.Namespaced,
}), func() runtime.Object { return new(corev1.ServiceAccountList) })
