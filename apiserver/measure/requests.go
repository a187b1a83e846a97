// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Key is what requests are told apart by.
type Key struct {
	// Verb is GET, LIST, WATCH, POST, PUT, PATCH, APPLY, DELETE, DELETECOLLECTION or CONNECT.
	Verb string
	// Scope is resource, namespace or cluster; empty for paths that are no resources.
	Scope                                 string
	Group, Version, Resource, Subresource string
	DryRun                                string // as in the query
}

// requestSeconds and sliSeconds are the buckets of requests' durations.
func requestSeconds() *Buckets {
	return Seconds(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
}

func sliSeconds() *Buckets {
	return Seconds(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60)
}

// Requests are the figures of requests.
type Requests struct {
	requestBuckets, sliBuckets, sizeBuckets *Buckets

	over *Route // what is counted beyond maxCells; not told

	// routes are replaced, never changed: they are looked up with every request.
	routes atomic.Pointer[map[Key]*Route]
	mu     sync.Mutex // held to replace routes
}

// NewRequests returns the figures of a server that had no request.
func NewRequests(s *Set) *Requests {
	r := &Requests{
		requestBuckets: requestSeconds(), sliBuckets: sliSeconds(),
		sizeBuckets: Numbers(1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9),
	}
	r.routes.Store(&map[Key]*Route{})
	r.over = r.route(Key{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.families = append(s.families, r)
	return r
}

// Route is the figures of requests with one key.
type Route struct {
	key      Key
	duration *Histogram
	sli      *Histogram // nil for those that last as long as their users like
	sizes    *Histogram // nil for those that write
	// Running is how many of those that last run now.
	Running Gauge
	codes   [8]code
	// more are further codes.
	mu   sync.Mutex
	more map[int]*Counter
}

type code struct {
	code atomic.Int32 // 0 if the place is free
	n    Counter
}

// lasts says that a request lasts as long as its user likes.
func (k *Key) lasts() bool { return k.Verb == "WATCH" || k.Verb == "CONNECT" }

func (r *Requests) route(key Key) *Route {
	o := &Route{key: key, duration: NewHistogram(r.requestBuckets)}
	if !key.lasts() {
		o.sli = NewHistogram(r.sliBuckets)
	}
	switch key.Verb {
	case "GET", "LIST", "WATCH":
		o.sizes = NewHistogram(r.sizeBuckets)
	}
	return o
}

// Of returns the figures of requests with a key. The key's values must be bounded in number.
func (r *Requests) Of(key *Key) *Route {
	if o := (*r.routes.Load())[*key]; o != nil {
		return o
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := *r.routes.Load()
	if o := now[*key]; o != nil {
		return o
	}
	if len(now) >= maxCells {
		return r.over
	}
	// What the key is made of may be parts of a request.
	own := Key{
		Verb: key.Verb, Scope: key.Scope, Group: strings.Clone(key.Group), Version: strings.Clone(key.Version),
		Resource: strings.Clone(key.Resource), Subresource: strings.Clone(key.Subresource), DryRun: key.DryRun,
	}
	next := maps.Clone(now)
	o := r.route(own)
	if own.DryRun != "" { // some figures do not tell them apart
		plain := own
		plain.DryRun = ""
		if next[plain] == nil {
			next[plain] = r.route(plain)
		}
		o.sli, o.sizes = next[plain].sli, next[plain].sizes
	}
	next[own] = o
	r.routes.Store(&next)
	return o
}

// Done counts a request that was answered with a status. Of the time that it took, outside was spent in webhooks or in
// the queue. Sizes are counted of answers that succeeded; negative is unknown.
func (o *Route) Done(status int, took, outside time.Duration, size int64) {
	o.counter(status).Inc()
	o.duration.Took(took)
	if o.sli != nil {
		o.sli.Took(max(took-outside, 0))
	}
	if o.sizes != nil && size >= 0 {
		o.sizes.Observe(size)
	}
}

func (o *Route) counter(status int) *Counter {
	for i := range o.codes {
		c := &o.codes[i]
		switch at := c.code.Load(); {
		case at == int32(status):
			return &c.n
		case at == 0 && c.code.CompareAndSwap(0, int32(status)):
			return &c.n
		case c.code.Load() == int32(status):
			return &c.n
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = map[int]*Counter{}
	}
	if o.more[status] == nil {
		o.more[status] = new(Counter)
	}
	return o.more[status]
}

// counted calls each with every status that was counted.
func (o *Route) counted(each func(status int, n uint64)) {
	for i := range o.codes {
		if n := o.codes[i].n.Value(); n > 0 {
			each(int(o.codes[i].code.Load()), n)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for status, n := range o.more {
		each(status, n.Value())
	}
}

func component(k *Key) string {
	if k.Resource == "" {
		return ""
	}
	return "apiserver"
}

// Collect implements part of prometheus.Collector.
func (r *Requests) Collect(out chan<- prometheus.Metric) {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	const component, dry, group, resource, scope, sub, verb, version = "component", "dry_run", "group", "resource", "scope", "subresource", "verb", "version"
	descs := routeDescs{
		total: describe("apiserver_request_total",
			"[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
			"code", component, dry, group, resource, scope, sub, verb, version),
		duration: describe("apiserver_request_duration_seconds",
			"[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			component, dry, group, resource, scope, sub, verb, version),
		sli: describe("apiserver_request_sli_duration_seconds",
			"[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
			component, group, resource, scope, sub, verb, version),
		sizes: describe("apiserver_response_sizes",
			"[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
			component, group, resource, scope, sub, verb, version),
		running: describe("apiserver_longrunning_requests",
			"[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
			component, group, resource, scope, sub, verb, version),
	}
	for _, o := range *r.routes.Load() {
		o.collect(&descs, out)
	}
}

type routeDescs struct{ total, duration, sli, sizes, running *prometheus.Desc }

func (o *Route) collect(d *routeDescs, out chan<- prometheus.Metric) {
	k := &o.key
	c := component(k)
	dry := []string{c, k.DryRun, k.Group, k.Resource, k.Scope, k.Subresource, k.Verb, k.Version}
	plain := []string{c, k.Group, k.Resource, k.Scope, k.Subresource, k.Verb, k.Version}
	o.counted(func(status int, n uint64) {
		values := append([]string{strconv.Itoa(status)}, dry...)
		out <- prometheus.MustNewConstMetric(d.total, prometheus.CounterValue, float64(n), values...)
	})
	if o.duration.Count() > 0 {
		out <- metric(d.duration, o.duration, dry)
	}
	if k.DryRun != "" {
		return
	}
	if k.lasts() {
		out <- metric(d.running, &o.Running, plain)
	}
	if o.sli != nil && o.sli.Count() > 0 {
		out <- metric(d.sli, o.sli, plain)
	}
	if o.sizes != nil && o.sizes.Count() > 0 {
		out <- metric(d.sizes, o.sizes, plain)
	}
}
