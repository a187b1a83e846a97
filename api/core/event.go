// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Events report what happened to other objects.
var Events = resource.WithList(resource.Define(resource.Definition[corev1.Event]{
	Group: "", Version: "v1", Kind: "Event", Resource: "events",
	ShortNames: []string{"ev"},
	Scope:      resource.Namespaced,
}), func() runtime.Object { return new(corev1.EventList) })
