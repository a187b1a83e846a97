// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Component is a part of the control plane whose health ComponentStatuses tell.
type Component struct {
	Name string
	// Check returns nil if the part works.
	Check func(context.Context) error
}

// componentTimeout bounds each check.
const componentTimeout = 3 * time.Second

// ComponentStatus returns the hook that answers requests for ComponentStatuses by asking the components.
func ComponentStatus(components ...Component) Hook {
	return Hook{Kind: core.ComponentStatuses.Kind, List: func(ctx context.Context) ([]resource.Object, error) {
		ctx, cancel := context.WithTimeout(ctx, componentTimeout)
		defer cancel()
		out := make([]resource.Object, len(components))
		for i, c := range components {
			condition := corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
			if err := c.Check(ctx); err != nil {
				condition.Status, condition.Message = corev1.ConditionFalse, err.Error()
			}
			out[i] = &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: c.Name}, Conditions: []corev1.ComponentCondition{condition}}
		}
		return out, nil
	}}
}
