// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"maps"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// HorizontalPodAutoscalers change the replicas of workloads by metrics.
var HorizontalPodAutoscalers = resource.WithList(resource.Define(resource.Definition[autoscalingv2.HorizontalPodAutoscaler]{
	Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler", Resource: "horizontalpodautoscalers",
	ShortNames:  []string{"hpa"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "horizontalpodautoscalers",
	Default:     defaultAutoscaler,
	PrepareCreate: func(h *autoscalingv2.HorizontalPodAutoscaler) {
		h.Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
	},
	PrepareUpdate: func(h, old *autoscalingv2.HorizontalPodAutoscaler) { h.Status = *old.Status.DeepCopy() },
	Validate:      validateAutoscaler,
	Columns:       autoscalerColumns(),
	Subresources: resource.Subresources[autoscalingv2.HorizontalPodAutoscaler]{
		Status: &resource.Status[autoscalingv2.HorizontalPodAutoscaler]{Prepare: func(obj, old *autoscalingv2.HorizontalPodAutoscaler) {
			status := obj.Status
			*obj = *old.DeepCopy()
			if obj.Status = status; len(status.CurrentMetrics) == 0 {
				obj.Status.CurrentMetrics = nil // as it comes back from where it is stored
			}
		}, Validate: validateAutoscalerStatus},
	},
}), func() runtime.Object { return new(autoscalingv2.HorizontalPodAutoscalerList) })

func autoscalerColumns() []resource.Column[autoscalingv2.HorizontalPodAutoscaler] {
	type hpa = autoscalingv2.HorizontalPodAutoscaler
	doc, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	return []resource.Column[hpa]{
		{Name: "Reference", Description: doc["scaleTargetRef"],
			Value: func(h *hpa, _ time.Time) any { return h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name }},
		{Name: "Targets", Description: doc["metrics"], Value: func(h *hpa, _ time.Time) any { return targets(h.Spec.Metrics, h.Status.CurrentMetrics) }},
		{Name: "MinPods", Description: doc["minReplicas"], Value: func(h *hpa, _ time.Time) any { return minPods(h.Spec.MinReplicas) }},
		{Name: "MaxPods", Description: doc["maxReplicas"], Value: func(h *hpa, _ time.Time) any { return int64(h.Spec.MaxReplicas) }},
		{Name: "Replicas", Description: status["currentReplicas"], Value: func(h *hpa, _ time.Time) any { return int64(h.Status.CurrentReplicas) }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(h *hpa, now time.Time) any { return core.Age(h.CreationTimestamp, now) }},
	}
}

func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func defaultAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	orDefault(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		utilization := int32(defaultUtilization)
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(utilization)}
	}
	defaultBehavior(h.Spec.Behavior)
	h.Annotations = withoutV1(h.Annotations)
}

// defaultUtilization is the part of its CPU request, in percent, that a pod shall use if no metric is given.
const defaultUtilization = 80

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name:   corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func defaultBehavior(b *autoscalingv2.HorizontalPodAutoscalerBehavior) {
	if b == nil {
		return
	}
	if b.ScaleUp == nil {
		b.ScaleUp = &autoscalingv2.HPAScalingRules{}
	}
	if b.ScaleDown == nil {
		b.ScaleDown = &autoscalingv2.HPAScalingRules{}
	}
	orDefault(&b.ScaleUp.StabilizationWindowSeconds, 0)
	for _, r := range []*autoscalingv2.HPAScalingRules{b.ScaleUp, b.ScaleDown} {
		orDefault(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	}
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	if b.ScaleUp.Policies == nil {
		b.ScaleUp.Policies = []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, double}
	}
	if b.ScaleDown.Policies == nil {
		b.ScaleDown.Policies = []autoscalingv2.HPAScalingPolicy{double}
	}
}

// withoutV1 drops the annotations that only autoscaling/v1 shows.
func withoutV1(annotations map[string]string) map[string]string {
	kept := annotations
	for _, key := range []string{metricsKey, behaviorKey, conditionsKey, currentMetricsKey} {
		if _, ok := annotations[key]; !ok {
			continue
		}
		if len(kept) == len(annotations) {
			kept = maps.Clone(annotations)
		}
		delete(kept, key)
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}
