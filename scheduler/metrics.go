// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of attempts, as Kubernetes' metrics name them.
const (
	resultScheduled     = "scheduled"
	resultUnschedulable = "unschedulable"
	resultError         = "error"
)

// metrics are those of kube-scheduler that dashboards read; see
// https://kubernetes.io/docs/reference/instrumentation/metrics/.
type metrics struct {
	profile   string
	attempts  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	algorithm prometheus.Histogram
	tries     prometheus.Histogram
	sli       *prometheus.HistogramVec
	preempts  prometheus.Counter
	victims   prometheus.Histogram
	pending   []prometheus.Collector
}

func newMetrics(profile string, q *queue) *metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 15)
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: "scheduler_" + name, Help: help, Buckets: buckets}
	}
	m := &metrics{
		profile: profile,
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total", Help: "Number of attempts to schedule pods, by the result.",
		}, []string{"profile", "result"}),
		duration: prometheus.NewHistogramVec(histogram("scheduling_attempt_duration_seconds",
			"Scheduling attempt latency in seconds (scheduling algorithm + binding)", seconds), []string{"profile", "result"}),
		algorithm: prometheus.NewHistogram(histogram("scheduling_algorithm_duration_seconds",
			"Scheduling algorithm latency in seconds", prometheus.ExponentialBuckets(0.00001, 2, 20))),
		tries: prometheus.NewHistogram(histogram("pod_scheduling_attempts",
			"Number of attempts to successfully schedule a pod.", prometheus.ExponentialBuckets(1, 2, 5))),
		sli: prometheus.NewHistogramVec(histogram("pod_scheduling_sli_duration_seconds",
			"E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue.",
			prometheus.ExponentialBuckets(0.01, 2, 20)), []string{"attempts"}),
		preempts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "scheduler_preemption_attempts_total", Help: "Total preemption attempts in the cluster till now",
		}),
		victims: prometheus.NewHistogram(histogram("preemption_victims", "Number of selected preemption victims", prometheus.ExponentialBuckets(1, 2, 7))),
	}
	for name, places := range map[string][]place{"active": {active}, "backoff": {resting, retrying}, "unschedulable": {waiting}, "gated": {gated}} {
		m.pending = append(m.pending, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "scheduler_pending_pods", Help: "Number of pending pods, by the queue type.", ConstLabels: prometheus.Labels{"queue": name},
		}, func() float64 { return float64(q.count(places...)) }))
	}
	return m
}

// register adds the metrics to a registry, which may be nil, until done is called.
func (m *metrics) register(registry prometheus.Registerer) (done func(), err error) {
	if registry == nil {
		return func() {}, nil
	}
	all := append([]prometheus.Collector{m.attempts, m.duration, m.algorithm, m.tries, m.sli, m.preempts, m.victims}, m.pending...)
	for i, c := range all {
		if err := registry.Register(c); err != nil {
			for _, c := range all[:i] {
				registry.Unregister(c)
			}
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return func() {
		for _, c := range all {
			registry.Unregister(c)
		}
	}, nil
}

func (m *metrics) attempt(result string, took time.Duration) {
	m.attempts.WithLabelValues(m.profile, result).Inc()
	m.duration.WithLabelValues(m.profile, result).Observe(took.Seconds())
}

func (m *metrics) scheduled(took, waited time.Duration, tries int) {
	m.attempt(resultScheduled, took)
	m.tries.Observe(float64(tries))
	m.sli.WithLabelValues(strconv.Itoa(min(tries, 16))).Observe(waited.Seconds())
}
