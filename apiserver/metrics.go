// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
)

// metrics are named as Kubernetes names them.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(reg *prometheus.Registry) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, group, version, resource, subresource and HTTP response code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb and resource.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"verb", "resource"}),
	}
	reg.MustRegister(m.requests, m.duration)
	return m
}

func (m *metrics) observe(q *call.Request, err error, took time.Duration) {
	code := 200
	if err != nil {
		code = 500
		if status, ok := err.(apierrors.APIStatus); ok {
			code = int(status.Status().Code)
		}
	}
	k := q.Kind
	m.requests.WithLabelValues(q.Verb, k.Group, k.Version, k.Resource, q.Subresource, strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(q.Verb, k.Resource).Observe(took.Seconds())
}
