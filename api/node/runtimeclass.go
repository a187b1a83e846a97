// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"slices"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// RuntimeClasses name ways to run pods.
var RuntimeClasses = resource.WithList(resource.Define(resource.Definition[nodev1.RuntimeClass]{
	Group: "node.k8s.io", Version: "v1", Kind: "RuntimeClass", Resource: "runtimeclasses",
	Scope:          resource.Cluster,
	CreateOnUpdate: true,
	StoragePath:    "runtimeclasses",
	NeedsRevision:  true,
	Validate:       validateRuntimeClass,
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		return core.Immutable(c.Handler, old.Handler, field.NewPath("handler"))
	},
	Warnings: func(c *nodev1.RuntimeClass) (out []string) {
		if c.Scheduling == nil {
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
			if text := core.DeprecatedNodeLabel(key); text != "" {
				out = append(out, field.NewPath("scheduling", "nodeSelector").String()+": "+text)
			}
		}
		return out
	},
	Columns: []resource.Column[nodev1.RuntimeClass]{
		{Name: "Handler", Value: func(c *nodev1.RuntimeClass, _ time.Time) any { return c.Handler }},
	},
}), func() runtime.Object { return new(nodev1.RuntimeClassList) })

func validateRuntimeClass(c *nodev1.RuntimeClass) (problems field.ErrorList) {
	if c.Handler == "" {
		problems = append(problems, field.Required(field.NewPath("handler"), ""))
	} else {
		problems = append(problems, core.Label(c.Handler, field.NewPath("handler"))...)
	}
	if c.Overhead != nil {
		problems = append(problems, core.Overhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	s := c.Scheduling
	if s == nil {
		return problems
	}
	at := field.NewPath("scheduling")
	problems = append(problems, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
	problems = append(problems, core.Tolerations(s.Tolerations, at.Child("tolerations"))...)
	for i := range s.Tolerations {
		for _, before := range s.Tolerations[:i] {
			if core.SameToleration(s.Tolerations[i], before) {
				problems = append(problems, field.Duplicate(at.Child("tolerations").Index(i), core.Shown(s.Tolerations[i])))
				break
			}
		}
	}
	return problems
}
