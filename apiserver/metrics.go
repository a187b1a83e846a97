// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/apiserver/measure"
)

// metrics are the server's figures, named as Kubernetes names them.
type metrics struct {
	set      *measure.Set
	requests *measure.Requests

	reading, writing *measure.Gauge // requests in flight, without those that last
	terminations     *measure.Family[measure.Counter]
	aborts           *measure.Family[measure.Counter]
	bodies           *measure.Family[measure.Histogram]
	deprecated       *measure.Family[measure.Gauge]
	handshakes       *measure.Counter

	authenticated  *measure.Family[measure.Counter]
	authentication attempts // success, error
	authorization  attempts // allowed, denied, no-opinion, error
	filters        *measure.Family[measure.Histogram]
	certificates   *measure.Histogram
	// These are counted with every request.
	recognised, allowed                                *measure.Counter
	recognisedTook, allowedTook, authFilter, mayFilter *measure.Histogram

	admission, plugins *measure.Family[measure.Histogram]
	queued             [2]*measure.Gauge // requests that wait for their turn: those that read, those that write
	lists              listMetrics
	services           *hooks.Figures
	impersonation      impersonationMetrics

	watchEvents, initEvents *measure.Family[measure.Counter]
	watchSizes              *measure.Family[measure.Histogram]
	watchLists              *measure.Family[measure.Histogram]

	// process is what is told of the process; made when it is asked for first.
	process func() *prometheus.Registry
}

// attempts are decisions by result, with how long they took.
type attempts struct {
	total *measure.Family[measure.Counter]
	took  *measure.Family[measure.Histogram]
}

func (a *attempts) count(result string, took time.Duration) {
	a.total.With(result).Inc()
	a.took.With(result).Took(took)
}

func newMetrics(s *Server) *metrics {
	set := &measure.Set{}
	m := &metrics{set: set, requests: measure.NewRequests(set), process: sync.OnceValue(processMetrics)}
	inflight := set.Gauges("apiserver_current_inflight_requests",
		"[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.", "request_kind")
	m.reading, m.writing = inflight.With("readOnly"), inflight.With("mutating")
	waiting := set.Gauges("apiserver_current_inqueue_requests",
		"[ALPHA] Maximal number of queued requests in this apiserver per request kind in last second.", "request_kind")
	m.queued = [2]*measure.Gauge{waiting.With("readOnly"), waiting.With("mutating")}
	m.terminations = set.Counters("apiserver_request_terminations_total",
		"[ALPHA] Number of requests which apiserver terminated in self-defense.", "code", "component", "group", "resource", "scope", "subresource", "verb", "version")
	m.aborts = set.Counters("apiserver_request_aborts_total",
		"[ALPHA] Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, resource, subresource and scope",
		"group", "resource", "scope", "subresource", "verb", "version")
	m.bodies = set.Histograms(bodyBytes(), "apiserver_request_body_size_bytes",
		"[ALPHA] Apiserver request body size in bytes broken out by resource and verb.", "group", "resource", "verb")
	m.deprecated = set.Gauges("apiserver_requested_deprecated_apis",
		"[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
		"group", "removed_release", "resource", "subresource", "version")
	m.handshakes = set.Counters("apiserver_tls_handshake_errors_total", "[ALPHA] Number of requests dropped with 'TLS handshake error from' error").With()
	m.authenticated = set.Counters("authenticated_user_requests", "[ALPHA] Counter of authenticated requests broken out by username.", "username")
	decisions := measure.Seconds(0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384)
	m.authentication = attempts{
		set.Counters("authentication_attempts", "[ALPHA] Counter of authenticated attempts.", "result"),
		set.Histograms(decisions, "authentication_duration_seconds", "[ALPHA] Authentication duration in seconds broken out by result.", "result"),
	}
	m.authorization = attempts{
		set.Counters("authorization_attempts_total",
			"[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.", "result"),
		set.Histograms(decisions, "authorization_duration_seconds", "[ALPHA] Authorization duration in seconds broken out by result.", "result"),
	}
	m.filters = set.Histograms(measure.Seconds(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 5, 10, 15, 30), "apiserver_request_filter_duration_seconds",
		"[ALPHA] Request filter latency distribution in seconds, for each filter type", "filter")
	m.recognised, m.recognisedTook = m.authentication.total.With("success"), m.authentication.took.With("success")
	m.allowed, m.allowedTook = m.authorization.total.With("allowed"), m.authorization.took.With("allowed")
	m.authFilter, m.mayFilter = m.filters.With("authentication"), m.filters.With("authorization")
	const day = 86400
	m.certificates = set.Histograms(measure.Seconds(0, 1800, 3600, 7200, 21600, 43200, day, 2*day, 4*day, 7*day, 30*day, 90*day, 180*day, 360*day),
		"apiserver_client_certificate_expiration_seconds", "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.").With()
	m.admissions(set)
	m.watches(set)
	m.lists = newListMetrics(set, "cache", "watch cache")
	s.storageMetrics(set)
	s.serviceMetrics(set)
	m.services = hooks.NewFigures(set)
	m.impersonation = newImpersonationMetrics(set, decisions)
	return m
}

func (m *metrics) watches(set *measure.Set) {
	m.watchEvents = set.Counters("apiserver_watch_events_total", "[ALPHA] Number of events sent in watch clients", "group", "resource", "version")
	m.watchSizes = set.Histograms(measure.Numbers(1<<10, 1<<11, 1<<12, 1<<13, 1<<14, 1<<15, 1<<16, 1<<17), "apiserver_watch_events_sizes",
		"[ALPHA] Watch event size distribution in bytes", "group", "resource", "version")
	m.initEvents = set.Counters("apiserver_init_events_total", "[ALPHA] Counter of init events processed in watch cache broken by resource type.", "group", "resource")
	m.watchLists = set.Histograms(measure.Seconds(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 15, 20, 30, 45, 60), "apiserver_watch_list_duration_seconds",
		"[BETA] Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.", "group", "resource", "scope", "version")
}

func bodyBytes() *measure.Buckets {
	var bounds []int64
	for n := int64(50e3); n <= 3050e3; n += 100e3 {
		bounds = append(bounds, n)
	}
	return measure.Numbers(bounds...)
}

// processMetrics are those of the Go runtime and the process.
func processMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.MetricsAll)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	v := Version()
	set := &measure.Set{}
	set.Gauges("kubernetes_build_info",
		"[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
		"build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform").
		With(v.BuildDate, v.Compiler, v.GitCommit, v.GitTreeState, v.GitVersion, v.GoVersion, v.Major, v.Minor, v.Platform).Set(1)
	set.Gauges("version_info",
		"[ALPHA] Provides the compatibility version info of the component. The component label is the name of the component, usually kube, but is relevant for aggregated-apiservers.",
		"binary", "component", "emulation", "min_compat").
		With(binaryVersion(), "kube", v.EmulationMajor+"."+v.EmulationMinor, v.MinCompatibilityMajor+"."+v.MinCompatibilityMinor).Set(1)
	tellFeatures(set)
	r.MustRegister(set)
	return r
}

// measured is an answer that is on its way, with what is counted of it.
type measured struct {
	http.ResponseWriter
	code int
	size int64
}

// Unwrap lets http.ResponseController reach the connection.
func (w *measured) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *measured) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *measured) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.size += int64(n)
	return n, err
}

// status is what was answered: 101 has no header if the connection was taken over.
func (w *measured) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

// measure serves a request for a resource that exists, and counts it.
func (s *Server) measure(w http.ResponseWriter, r *http.Request, reg *registry, serve func(http.ResponseWriter, *http.Request, *registry)) {
	sc := scopeOf(r)
	key := keyOf(r, sc.info, reg.kind)
	route := s.metrics.requests.Of(&key)
	sc.answer = measured{ResponseWriter: w}
	running := s.running(&key, route)
	running.Add(1)
	finished := false
	defer func() {
		running.Add(-1)
		if !finished || r.Context().Err() == context.Canceled && key.Verb != "WATCH" && key.Verb != "CONNECT" {
			s.metrics.aborts.With(key.Group, key.Resource, key.Scope, key.Subresource, key.Verb, key.Version).Inc()
		}
		if finished {
			took := time.Since(sc.received)
			route.Done(sc.answer.status(), took, sc.spent.outside(), sc.answer.size)
			if took >= slow {
				s.logSlow(&key, sc.answer.status(), took, &sc.spent, slowHTTP(r, sc))
			}
		}
	}()
	serve(&sc.answer, r, reg)
	finished = true
}

// running is where a request counts while it runs.
func (s *Server) running(key *measure.Key, route *measure.Route) *measure.Gauge {
	switch key.Verb {
	case "WATCH", "CONNECT":
		return &route.Running
	case "GET", "LIST":
		return s.metrics.reading
	}
	return s.metrics.writing
}

// keyOf is what a request over HTTP is counted under.
func keyOf(r *http.Request, i *requestInfo, k *resource.Kind) measure.Key {
	key := measure.Key{Verb: measuredVerb(i.verb), Group: k.Group, Version: k.Version, Resource: k.Resource, Subresource: i.subresource}
	switch {
	case isConnect(k, i.subresource) && i.subresource != "log":
		key.Verb = "CONNECT"
	case i.verb == "patch" && strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply-patch"):
		key.Verb = "APPLY"
	case r.Method == http.MethodHead:
		key.Verb = "HEAD"
	}
	key.Scope = measuredScope(i.verb, i.namespace, i.name)
	if strings.Contains(r.URL.RawQuery, "dryRun=All") {
		key.DryRun = "All"
	}
	return key
}

func measuredScope(verb, namespace, name string) string {
	switch {
	case name != "" || verb == "create":
		return "resource"
	case namespace != "":
		return "namespace"
	}
	return "cluster"
}

func measuredVerb(verb string) string {
	switch verb {
	case "get":
		return "GET"
	case "list":
		return "LIST"
	case "watch":
		return "WATCH"
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "patch":
		return "PATCH"
	case "delete":
		return "DELETE"
	case "deletecollection":
		return "DELETECOLLECTION"
	}
	return "CONNECT"
}

// measureCall carries out a request of this process, and counts it.
func (s *Server) measureCall(user *call.Identity, q *call.Request, do func(*spent) (*call.Result, error)) (*call.Result, error) {
	key := measure.Key{
		Verb: measuredVerb(q.Verb), Group: q.Kind.Group, Version: q.Kind.Version, Resource: q.Kind.Resource, Subresource: q.Subresource,
		Scope: measuredScope(q.Verb, q.Namespace, q.Name),
	}
	if q.Verb == "patch" && strings.HasPrefix(string(q.PatchType), "application/apply-patch") {
		key.Verb = "APPLY"
	}
	route := s.metrics.requests.Of(&key)
	running := s.running(&key, route)
	running.Add(1)
	defer running.Add(-1)
	began, parts := time.Now(), &spent{}
	result, err := do(parts)
	code := http.StatusOK
	switch {
	case err != nil:
		code = int(statusOf(err).Code)
	case result.Created:
		code = http.StatusCreated
	}
	took := time.Since(began)
	route.Done(code, took, parts.outside(), -1)
	if took >= slow {
		s.logSlow(&key, code, took, parts, slowCall(user, q))
	}
	return result, err
}

// terminated counts a request that the server refused to defend itself.
func (s *Server) terminated(r *http.Request, code int) {
	i := scopeOf(r).info
	reg := s.resource(gvrOf(i))
	if reg == nil {
		return
	}
	k := keyOf(r, i, reg.kind)
	s.metrics.terminations.With(strconv.Itoa(code), "apiserver", k.Group, k.Resource, k.Scope, "", k.Verb, k.Version).Inc()
}

// knownUser is the name under which a user's requests are counted: most are together.
func knownUser(name string) string {
	switch name {
	case "admin", "system:anonymous", "system:kube-scheduler", "system:kube-controller-manager":
		return name
	}
	return "other"
}

// countAuthentication counts who was recognised, and how long that took.
func (s *Server) countAuthentication(sc *scope, user *call.Identity, r *http.Request) {
	took := time.Since(sc.received)
	m := s.metrics
	m.authFilter.Took(took)
	sc.spent.authentication.add(took)
	if user == nil {
		m.authentication.count("error", took)
		return
	}
	m.recognised.Inc()
	m.recognisedTook.Took(took)
	m.authenticated.With(knownUser(user.Name)).Inc()
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && user.Name == r.TLS.PeerCertificates[0].Subject.CommonName {
		m.certificates.Took(r.TLS.PeerCertificates[0].NotAfter.Sub(sc.received))
	}
}

// countAuthorization counts a decision.
func (s *Server) countAuthorization(err error, took time.Duration) {
	m := s.metrics
	m.mayFilter.Took(took)
	switch {
	case err == nil:
		m.allowed.Inc()
		m.allowedTook.Took(took)
	case apierrors.IsForbidden(err):
		m.authorization.count("no-opinion", took)
	default:
		m.authorization.count("error", took)
	}
}

// countPath counts a request for a path that is no resource.
func (s *Server) countPath(w http.ResponseWriter, r *http.Request, path string, serve func(http.ResponseWriter)) {
	sc := scopeOf(r)
	sc.answer = measured{ResponseWriter: w}
	serve(&sc.answer)
	verb := "GET"
	if r.Method == http.MethodHead {
		verb = "HEAD"
	}
	s.metrics.requests.Of(&measure.Key{Verb: verb, Subresource: path}).Done(sc.answer.status(), time.Since(sc.received), 0, sc.answer.size)
}
