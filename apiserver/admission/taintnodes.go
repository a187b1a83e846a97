// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
)

// taintNodesByCondition keeps pods off a new node until the node lifecycle loop has seen it ready.
func taintNodesByCondition() Step {
	return Step{Name: "TaintNodesByCondition", Mutate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Nodes.Kind) {
			return nil
		}
		node := core.Nodes.Cast(r.Object)
		taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
			node.Spec.Taints = append(node.Spec.Taints, taint)
		}
		return nil
	}}
}
