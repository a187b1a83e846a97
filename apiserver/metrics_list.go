// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strconv"
	"time"

	apf "knarr.dev/apiserver/flowcontrol"
	"knarr.dev/apiserver/measure"
)

// listMetrics are those of lists from the store, or from the caches.
type listMetrics struct {
	cache                               bool
	total, fetched, evaluated, returned *measure.Family[measure.Counter]
	consistent                          *measure.Family[measure.Counter]
	waits                               *measure.Family[measure.Histogram]
}

// newListMetrics returns those of lists that are served from a place.
func newListMetrics(set *measure.Set, name, place string) listMetrics {
	m := listMetrics{cache: name == "cache"}
	gr := []string{"group", "resource"}
	indexed := gr
	if m.cache {
		indexed = []string{"group", "index", "resource"}
	}
	name = "apiserver_" + name + "_list_"
	m.total = set.Counters(name+"total", "[ALPHA] Number of LIST requests served from "+place, indexed...)
	m.fetched = set.Counters(name+"fetched_objects_total", "[ALPHA] Number of objects read from "+place+" in the course of serving a LIST request", indexed...)
	m.returned = set.Counters(name+"returned_objects_total", "[ALPHA] Number of objects returned for a LIST request from "+place, gr...)
	if !m.cache {
		m.evaluated = set.Counters(name+"evaluated_objects_total", "[ALPHA] Number of objects tested in the course of serving a LIST request from "+place, gr...)
		return m
	}
	m.consistent = set.Counters("apiserver_watch_cache_consistent_read_total", "[ALPHA] Counter for consistent reads from cache.", "fallback", "group", "resource", "success")
	m.waits = set.Histograms(measure.Seconds(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3), "apiserver_watch_cache_read_wait_seconds",
		"[ALPHA] Histogram of time spent waiting for a watch cache to become fresh.", gr...)
	return m
}

// listFigures are those of one resource.
type listFigures struct {
	total, fetched, evaluated, returned *measure.Counter
	fresh                               *measure.Counter
	waited                              *measure.Histogram
}

func (m *listMetrics) of(group, resource string) *listFigures {
	if m.cache { // lists use no index but labels, which Kubernetes does not name
		return &listFigures{
			total: m.total.With(group, "", resource), fetched: m.fetched.With(group, "", resource), returned: m.returned.With(group, resource),
			fresh: m.consistent.With("false", group, resource, strconv.FormatBool(true)), waited: m.waits.With(group, resource),
		}
	}
	return &listFigures{
		total: m.total.With(group, resource), fetched: m.fetched.With(group, resource), returned: m.returned.With(group, resource),
		evaluated: m.evaluated.With(group, resource),
	}
}

// count counts one list.
func (f *listFigures) count(fetched, returned int) {
	f.total.Inc()
	f.fetched.Add(uint64(fetched))
	f.returned.Add(uint64(returned))
	if f.evaluated != nil {
		f.evaluated.Add(uint64(fetched))
	}
}

// figures are those of lists of this resource from the cache.
func (r *registry) figures() *listFigures {
	if f := r.listed.Load(); f != nil {
		return f
	}
	f := r.server.metrics.lists.of(r.kind.Group, r.kind.Resource)
	r.listed.Store(f)
	return f
}

// freshened counts a list that waited for the cache to show all that is stored.
func (r *registry) freshened(began time.Time, err error) {
	f := r.figures()
	f.waited.Took(time.Since(began))
	if err == nil {
		f.fresh.Inc()
		return
	}
	r.server.metrics.lists.consistent.With("false", r.kind.Group, r.kind.Resource, strconv.FormatBool(false)).Inc()
}

// queue is where a request counts while it waits for its turn.
func (m *metrics) queue(verb string) *measure.Gauge {
	if apf.Reads(verb) {
		return m.queued[0]
	}
	return m.queued[1]
}
