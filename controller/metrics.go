// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
)

// provider makes the workqueue metrics that Kubernetes' dashboards read, on a given registry.
type provider struct{ registry *prometheus.Registry }

func newProvider(registry *prometheus.Registry) workqueue.MetricsProvider {
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	return provider{registry}
}

// register adds a collector, or returns the one that another queue added.
func register[T prometheus.Collector](p provider, c T) T {
	err := p.registry.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if known, ok := there.ExistingCollector.(T); ok {
			return known
		}
	}
	return c
}

func (p provider) gauge(name, help, queue string) prometheus.Gauge {
	return register(p, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"name"})).WithLabelValues(queue)
}

func (p provider) counter(name, help, queue string) prometheus.Counter {
	return register(p, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"name"})).WithLabelValues(queue)
}

func (p provider) histogram(name, help, queue string) prometheus.Observer {
	return register(p, prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(10e-9, 10, 12),
	}, []string{"name"})).WithLabelValues(queue)
}

func (p provider) NewDepthMetric(queue string) workqueue.GaugeMetric {
	return p.gauge("workqueue_depth", "Current depth of workqueue", queue)
}

func (p provider) NewAddsMetric(queue string) workqueue.CounterMetric {
	return p.counter("workqueue_adds_total", "Total number of adds handled by workqueue", queue)
}

func (p provider) NewLatencyMetric(queue string) workqueue.HistogramMetric {
	return p.histogram("workqueue_queue_duration_seconds", "How long in seconds an item stays in workqueue before being requested.", queue)
}

func (p provider) NewWorkDurationMetric(queue string) workqueue.HistogramMetric {
	return p.histogram("workqueue_work_duration_seconds", "How long in seconds processing an item from workqueue takes.", queue)
}

func (p provider) NewUnfinishedWorkSecondsMetric(queue string) workqueue.SettableGaugeMetric {
	return p.gauge("workqueue_unfinished_work_seconds", "How many seconds of work has been done that is in progress.", queue)
}

func (p provider) NewLongestRunningProcessorSecondsMetric(queue string) workqueue.SettableGaugeMetric {
	return p.gauge("workqueue_longest_running_processor_seconds", "How many seconds has the longest running processor been running.", queue)
}

func (p provider) NewRetriesMetric(queue string) workqueue.CounterMetric {
	return p.counter("workqueue_retries_total", "Total number of retries handled by workqueue", queue)
}
