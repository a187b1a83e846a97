// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// LimitRanges bound and default what pods of a namespace request.
var LimitRanges = resource.WithList(resource.Define(resource.Definition[corev1.LimitRange]{
	Group: "", Version: "v1", Kind: "LimitRange", Resource: "limitranges",
	ShortNames: []string{"limits"},
	Scope:      resource.Namespaced,
}), func() runtime.Object { return new(corev1.LimitRangeList) })
