// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/pod-security-admission/api"

	"knarr.dev/api/core"
	"knarr.dev/apiserver/measure"
	"knarr.dev/apiserver/webhook"
)

// Types of webhooks, as figures name them.
const (
	typeMutating   = "admit"
	typeValidating = "validating"
)

// figures are those of webhooks and policies, named as Kubernetes names them.
type figures struct {
	webhookTook *measure.Family[measure.Histogram]
	webhooks    *measure.Family[measure.Counter]
	rejections  *measure.Family[measure.Counter]
	failedOpen  *measure.Family[measure.Counter]
	noNames     *measure.Counter // certificates of webhooks without names of hosts
	sha1        *measure.Counter // and those signed with SHA-1

	validating, mutating checkFigures
}

// checkFigures are those of the policies of one kind.
type checkFigures struct {
	total *measure.Family[measure.Counter]
	took  *measure.Family[measure.Histogram]
}

// newFigures adds figures to a set, which may be nil.
func newFigures(set *measure.Set) *figures {
	if set == nil {
		set = &measure.Set{}
	}
	return &figures{
		webhookTook: set.Histograms(measure.Seconds(0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25), "apiserver_admission_webhook_admission_duration_seconds",
			"[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
			"name", "operation", "rejected", "type"),
		webhooks: set.Counters("apiserver_admission_webhook_request_total",
			"[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
			"code", "name", "operation", "rejected", "type"),
		rejections: set.Counters("apiserver_admission_webhook_rejection_count",
			"[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
			"error_type", "name", "operation", "rejection_code", "type"),
		failedOpen: set.Counters("apiserver_admission_webhook_fail_open_count",
			"[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).", "name", "type"),
		noNames: set.Counters("apiserver_webhooks_x509_missing_san_total",
			"[ALPHA] Counts the number of requests to servers missing SAN extension in their serving certificate OR the number of connection failures due to the lack of x509 certificate SAN extension missing (either/or, based on the runtime environment)").With(),
		sha1: set.Counters("apiserver_webhooks_x509_insecure_sha1_total",
			"[ALPHA] Counts the number of requests to servers with insecure SHA1 signatures in their serving certificate OR the number of connection failures due to the insecure SHA1 signatures (either/or, based on the runtime environment)").With(),
		validating: newCheckFigures(set, "apiserver_validating_admission_policy_check_",
			"[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
			"[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
			"enforcement_action", "error_type", "policy", "policy_binding"),
		mutating: newCheckFigures(set, "apiserver_mutating_admission_policy_check_",
			"[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
			"[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
			"error_type", "policy", "policy_binding"),
	}
}

func newCheckFigures(set *measure.Set, name, total, took string, labels ...string) checkFigures {
	return checkFigures{
		total: set.Counters(name+"total", total, labels...),
		took:  set.Histograms(measure.Seconds(0.0000005, 0.001, 0.01, 0.1, 1), name+"duration_seconds", took, labels...),
	}
}

// denied is the error of a webhook that refuses, until it is counted.
type denied struct{ *apierrors.StatusError }

// maxCode bounds the codes that are told apart.
const maxCode = 600

// called counts what came of a call of a webhook, and returns the error to go on with.
func (f *figures) called(r *Request, h *hook, kind string, took time.Duration, err error) error {
	operation := strings.ToUpper(r.Verb)
	rejected, problem, code := err != nil, "apiserver_internal_error", 0
	var failed *callError
	var no denied
	switch {
	case err == nil:
		code = http.StatusOK
	case errors.As(err, &failed):
		rejected, problem, code = !h.ignores(), "calling_webhook_error", http.StatusServiceUnavailable
		var status apierrors.APIStatus
		if errors.As(failed.cause, &status) {
			code = int(status.Status().Code)
		}
		f.connection(failed.cause)
		if !rejected {
			f.failedOpen.With(h.spec.Name, kind).Inc()
		}
	case errors.As(err, &no):
		problem, code, err = "no_error", int(no.ErrStatus.Code), no.StatusError
	}
	text, verdict := strconv.Itoa(min(code, maxCode)), strconv.FormatBool(rejected)
	if rejected {
		f.rejections.With(problem, h.spec.Name, operation, text, kind).Inc()
	}
	f.webhooks.With(text, h.spec.Name, operation, verdict, kind).Inc()
	f.webhookTook.With(h.spec.Name, operation, verdict, kind).Took(took)
	return err
}

// connection counts connections that failed because of an old-fashioned certificate.
func (f *figures) connection(err error) {
	switch noNames, sha1 := webhook.Outdated(err); {
	case noNames:
		f.noNames.Inc()
	case sha1:
		f.sha1.Inc()
	}
}

// Error types of checks. One that says no is invalid, as observed.
const (
	checkPassed  = "no_error"
	checkBroken  = "compile_error"
	checkInvalid = "invalid_error"
	checkCostly  = "out_of_budget"
)

// check counts an evaluation by the values of the labels.
func (f *checkFigures) check(began time.Time, labels ...string) {
	f.total.With(labels...).Inc()
	f.took.With(labels...).Took(time.Since(began))
}

// Modes of pod security.
const (
	modeEnforce = "enforce"
	modeAudit   = "audit"
	modeWarn    = "warn"
)

// securityFigures are those of pod security. All methods do nothing on nil.
type securityFigures struct {
	evaluations, exemptions *measure.Family[measure.Counter]
}

func newSecurityFigures(set *measure.Set) *securityFigures {
	return &securityFigures{
		evaluations: set.Counters("pod_security_evaluations_total",
			"[ALPHA] Number of policy evaluations that occurred, not counting ignored or exempt requests.",
			"decision", "mode", "policy_level", "policy_version", "request_operation", "resource", "subresource"),
		exemptions: set.Counters("pod_security_exemptions_total",
			"[ALPHA] Number of exempt requests, not counting ignored or out of scope requests.", "request_operation", "resource", "subresource"),
	}
}

// newestSecurity is the minor version of the newest standards.
const newestSecurity = 36

// securityResource is pod, or controller for what makes pods.
func securityResource(r *Request) string {
	if r.Kind == core.Pods.Kind {
		return "pod"
	}
	return "controller"
}

// evaluated counts that a level was held against a pod.
func (f *securityFigures) evaluated(r *Request, mode string, level api.LevelVersion, allowed bool) {
	if f == nil {
		return
	}
	decision, version := "deny", level.Version.String()
	if allowed {
		decision = "allow"
	}
	if !level.Version.Latest() && level.Version.Minor() > newestSecurity {
		version = "future"
	}
	f.evaluations.With(decision, mode, string(level.Level), version, r.Verb, securityResource(r), r.Subresource).Inc()
}

// exempt counts a request that nothing is held against.
func (f *securityFigures) exempt(r *Request) {
	if f != nil {
		f.exemptions.With(r.Verb, securityResource(r), r.Subresource).Inc()
	}
}
