// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"fmt"
	"strconv"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
)

// shownMetrics is how many metrics a table lists.
const shownMetrics = 2

func minPods(n *int32) string {
	if n == nil {
		return "<unset>"
	}
	return strconv.Itoa(int(*n))
}

// targets lists what the metrics are and should be: cpu: 40%/80%, 12/5 (avg) + 1 more...
func targets(specs []autoscalingv2.MetricSpec, now []autoscalingv2.MetricStatus) string {
	if len(specs) == 0 {
		return "<none>"
	}
	var all []string
	for i := range specs {
		if i == shownMetrics {
			break
		}
		var status *autoscalingv2.MetricStatus
		if i < len(now) {
			status = &now[i]
		}
		all = append(all, target(&specs[i], status))
	}
	text := strings.Join(all, ", ")
	if more := len(specs) - shownMetrics; more > 0 {
		text += fmt.Sprintf(" + %d more...", more)
	}
	return text
}

const unknown = "<unknown>"

func target(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	if status == nil {
		status = &autoscalingv2.MetricStatus{}
	}
	switch spec.Type {
	case autoscalingv2.ExternalMetricSourceType:
		var now *autoscalingv2.MetricValueStatus
		if status.External != nil {
			now = &status.External.Current
		}
		return valueOrAverage(&spec.External.Target, now)
	case autoscalingv2.PodsMetricSourceType:
		current := unknown
		if status.Pods != nil {
			current = quantity(status.Pods.Current.AverageValue)
		}
		return current + "/" + quantity(spec.Pods.Target.AverageValue)
	case autoscalingv2.ObjectMetricSourceType:
		var now *autoscalingv2.MetricValueStatus
		if status.Object != nil {
			now = &status.Object.Current
		}
		return valueOrAverage(&spec.Object.Target, now)
	case autoscalingv2.ResourceMetricSourceType:
		var now *autoscalingv2.MetricValueStatus
		if status.Resource != nil {
			now = &status.Resource.Current
		}
		return fmt.Sprintf("%s: %s", spec.Resource.Name, usage(&spec.Resource.Target, now))
	case autoscalingv2.ContainerResourceMetricSourceType:
		var now *autoscalingv2.MetricValueStatus
		if status.ContainerResource != nil {
			now = &status.ContainerResource.Current
		}
		return fmt.Sprintf("%s: %s", spec.ContainerResource.Name, usage(&spec.ContainerResource.Target, now))
	}
	return "<unknown type>"
}

func quantity(q *resource.Quantity) string {
	if q == nil {
		return "0"
	}
	return q.String()
}

// valueOrAverage shows a metric that has a value for all or one for each pod.
func valueOrAverage(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	current := unknown
	if t.AverageValue != nil {
		if now != nil && now.AverageValue != nil {
			current = now.AverageValue.String()
		}
		return fmt.Sprintf("%s/%s (avg)", current, t.AverageValue.String())
	}
	if now != nil {
		current = quantity(now.Value)
	}
	return current + "/" + quantity(t.Value)
}

// usage shows a resource, as an amount or as a part of what was requested.
func usage(t *autoscalingv2.MetricTarget, now *autoscalingv2.MetricValueStatus) string {
	current := unknown
	if t.AverageValue != nil {
		if now != nil {
			current = quantity(now.AverageValue)
		}
		return current + "/" + t.AverageValue.String()
	}
	if now != nil && now.AverageUtilization != nil {
		current = fmt.Sprintf("%d%%", *now.AverageUtilization)
	}
	want := "<auto>"
	if t.AverageUtilization != nil {
		want = fmt.Sprintf("%d%%", *t.AverageUtilization)
	}
	return current + "/" + want
}
