// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// ComponentStatuses tell whether the parts of the control plane answer. They are asked anew for each request.
var ComponentStatuses = resource.WithList(resource.Define(resource.Definition[corev1.ComponentStatus]{
	Group: "", Version: "v1", Kind: "ComponentStatus", Resource: "componentstatuses",
	ShortNames: []string{"cs"},
	Scope:      resource.Cluster,
	Virtual:    true,
	Verbs:      []string{"get", "list"},
	Ageless:    true,
	Columns: []resource.Column[corev1.ComponentStatus]{
		{Name: "Status", Value: func(s *corev1.ComponentStatus, _ time.Time) any {
			switch healthCondition(s).Status {
			case "":
				return ""
			case corev1.ConditionTrue:
				return "Healthy"
			}
			return "Unhealthy"
		}},
		{Name: "Message", Value: func(s *corev1.ComponentStatus, _ time.Time) any { return healthCondition(s).Message }},
		{Name: "Error", Value: func(s *corev1.ComponentStatus, _ time.Time) any { return healthCondition(s).Error }},
	},
}), func() runtime.Object { return new(corev1.ComponentStatusList) })

func healthCondition(s *corev1.ComponentStatus) corev1.ComponentCondition {
	for _, c := range s.Conditions {
		if c.Type == corev1.ComponentHealthy {
			return c
		}
	}
	return corev1.ComponentCondition{}
}
