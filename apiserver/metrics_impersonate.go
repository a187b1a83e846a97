// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/apiserver/measure"
)

// impersonationMetrics are those of users that act as others: whole attempts, and the rights that were asked for.
type impersonationMetrics struct{ all, checks impersonationCounts }

// impersonationCounts are by decision and mode.
type impersonationCounts struct {
	total *measure.Family[measure.Counter]
	took  *measure.Family[measure.Histogram]
}

func newImpersonationMetrics(set *measure.Set, decisions *measure.Buckets) impersonationMetrics {
	labels := []string{"decision", "mode"}
	return impersonationMetrics{
		all: impersonationCounts{
			set.Counters("apiserver_impersonation_attempts_total", "[ALPHA] Total number of impersonation attempts split by mode and decision.", labels...),
			set.Histograms(decisions, "apiserver_impersonation_attempts_duration_seconds",
				"[ALPHA] Latency of impersonation attempts in seconds split by mode and decision.", labels...),
		},
		checks: impersonationCounts{
			set.Counters("apiserver_impersonation_authorization_attempts_total",
				"[ALPHA] Total number of authorization checks made by the impersonation handler split by mode and decision.", labels...),
			set.Histograms(decisions, "apiserver_impersonation_authorization_attempts_duration_seconds",
				"[ALPHA] Latency of authorization checks made by the impersonation handler in seconds split by mode and decision.", labels...),
		},
	}
}

// modeName is how figures call a way to be somebody.
func modeName(mode string) string {
	if mode == "" {
		return "legacy"
	}
	return mode
}

// count counts an attempt: one that was refused had no mode.
func (c impersonationCounts) count(mode string, err error, took time.Duration) {
	if err != nil {
		c.countIn("", err, took)
		return
	}
	c.countIn(modeName(mode), nil, took)
}

// countIn counts a decision in a mode.
func (c impersonationCounts) countIn(mode string, err error, took time.Duration) {
	decision := "allowed"
	switch {
	case err == nil:
	case apierrors.IsForbidden(err):
		decision = "denied"
	default:
		decision = "error"
	}
	c.total.With(decision, mode).Inc()
	c.took.With(decision, mode).Took(took)
}
