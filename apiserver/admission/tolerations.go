// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
)

// defaultToleration is how long, in seconds, a pod stays on a node that is not ready or not reachable.
const defaultToleration = int64(300)

// defaultTolerationSeconds lets pods survive short absences of their node.
func defaultTolerationSeconds() Step {
	return Step{Name: "DefaultTolerationSeconds", Mutate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
			return nil
		}
		pod := core.Pods.Cast(r.Object)
		var missing []corev1.Toleration
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			if tolerates(pod.Spec.Tolerations, key) {
				continue
			}
			seconds := defaultToleration
			missing = append(missing, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, missing...)
		return nil
	}}
}

// tolerates tells whether something is said about being evicted for key.
func tolerates(tolerations []corev1.Toleration, key string) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}
