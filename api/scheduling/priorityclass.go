// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// PriorityClasses name pod priorities.
var PriorityClasses = resource.WithList(resource.Define(resource.Definition[schedulingv1.PriorityClass]{
	Group: "scheduling.k8s.io", Version: "v1", Kind: "PriorityClass", Resource: "priorityclasses",
	ShortNames:  []string{"pc"},
	Scope:       resource.Cluster,
	StoragePath: "priorityclasses",
}), func() runtime.Object { return new(schedulingv1.PriorityClassList) })
