// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"time"

	"knarr.dev/api/resource"
)

// Annotations in which autoscaling/v1 shows what it has no fields for.
const (
	metricsKey        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsKey = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsKey     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorKey       = "autoscaling.alpha.kubernetes.io/behavior"
)

// HorizontalPodAutoscalersV1 are the same objects in their first form.
var HorizontalPodAutoscalersV1 = resource.StoredAs(resource.WithList(resource.Define(resource.Definition[autoscalingv1.HorizontalPodAutoscaler]{
	Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler", Resource: "horizontalpodautoscalers",
	ShortNames: []string{"hpa"},
	Categories: []string{"all"},
	Scope:      resource.Namespaced,
	Default:    defaultV1,
	Columns:    v1Columns(),
	Hidden:     []string{metricsKey, currentMetricsKey, conditionsKey, behaviorKey},
	Subresources: resource.Subresources[autoscalingv1.HorizontalPodAutoscaler]{
		Status: &resource.Status[autoscalingv1.HorizontalPodAutoscaler]{},
	},
}), func() runtime.Object { return new(autoscalingv1.HorizontalPodAutoscalerList) }), HorizontalPodAutoscalers, toV2, fromV2)

func defaultV1(h *autoscalingv1.HorizontalPodAutoscaler) {
	orDefault(&h.Spec.MinReplicas, 1)
	var others []autoscalingv1.MetricSpec
	if !read(h.Annotations, metricsKey, &others) || len(others) == 0 {
		orDefault(&h.Spec.TargetCPUUtilizationPercentage, defaultUtilization)
	}
}

// v1Columns are those of the stored form.
func v1Columns() []resource.Column[autoscalingv1.HorizontalPodAutoscaler] {
	var all []resource.Column[autoscalingv1.HorizontalPodAutoscaler]
	for _, c := range autoscalerColumns() {
		all = append(all, resource.Column[autoscalingv1.HorizontalPodAutoscaler]{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Wide: c.Wide,
			Value: func(h *autoscalingv1.HorizontalPodAutoscaler, now time.Time) any {
				hub, _ := toV2(h)
				return c.Value(hub, now)
			},
		})
	}
	return all
}

// toV2 reads fields and annotations; annotations that cannot be read do not count.
func toV2(h *autoscalingv1.HorizontalPodAutoscaler) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	out := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	var metrics []autoscalingv1.MetricSpec
	if read(h.Annotations, metricsKey, &metrics) {
		for i := range metrics {
			if m := metricToV2(&metrics[i]); !isCPUUtilization(&m) || h.Spec.TargetCPUUtilizationPercentage == nil {
				out.Spec.Metrics = append(out.Spec.Metrics, m)
			}
		}
	}
	if percent := h.Spec.TargetCPUUtilizationPercentage; percent != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuUtilization(*percent))
	}
	var current []autoscalingv1.MetricStatus
	if read(h.Annotations, currentMetricsKey, &current) {
		for i := range current {
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, statusToV2(&current[i]))
		}
	} else if percent := h.Status.CurrentCPUUtilizationPercentage; percent != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: percent},
		}}}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if read(h.Annotations, conditionsKey, &conditions) {
		for _, c := range conditions {
			out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
				LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			})
		}
	}
	var b behavior
	if read(h.Annotations, behaviorKey, &b) {
		out.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: b.ScaleUp.toV2(), ScaleDown: b.ScaleDown.toV2()}
	}
	out.Annotations = withoutV1(h.Annotations)
	return out, nil
}

func read(annotations map[string]string, key string, into any) bool {
	text, ok := annotations[key]
	return ok && text != "" && json.Unmarshal([]byte(text), into) == nil
}

func isCPUUtilization(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Target.AverageUtilization != nil
}

// fromV2 puts into annotations what v1 has no fields for.
func fromV2(h *autoscalingv2.HorizontalPodAutoscaler) (*autoscalingv1.HorizontalPodAutoscaler, error) {
	out := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: h.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(h.Spec.ScaleTargetRef),
			MinReplicas:    h.Spec.MinReplicas, MaxReplicas: h.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: h.Status.ObservedGeneration, LastScaleTime: h.Status.LastScaleTime,
			CurrentReplicas: h.Status.CurrentReplicas, DesiredReplicas: h.Status.DesiredReplicas,
		},
	}
	var others []autoscalingv1.MetricSpec
	for i := range h.Spec.Metrics {
		m := &h.Spec.Metrics[i]
		if !isCPUUtilization(m) {
			others = append(others, metricToV1(m))
		} else if out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	var current []autoscalingv1.MetricStatus
	for i := range h.Status.CurrentMetrics {
		m := &h.Status.CurrentMetrics[i]
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, statusToV1(m))
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range h.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	more := map[string]any{}
	if len(others) > 0 {
		more[metricsKey] = others
	}
	if len(current) > 0 {
		more[currentMetricsKey] = current
	}
	if len(conditions) > 0 {
		more[conditionsKey] = conditions
	}
	if b := h.Spec.Behavior; b != nil {
		more[behaviorKey] = behavior{ScaleUp: rulesFrom(b.ScaleUp), ScaleDown: rulesFrom(b.ScaleDown)}
	}
	if len(more) == 0 {
		return out, nil
	}
	out.Annotations = maps.Clone(h.Annotations)
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	for key, value := range more {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		out.Annotations[key] = string(text)
	}
	return out, nil
}
