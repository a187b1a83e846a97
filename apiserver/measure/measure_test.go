// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package measure_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"knarr.dev/apiserver/measure"
)

func TestFamilies(t *testing.T) {
	set := &measure.Set{}
	set.Counters("plain_total", "p").With().Add(2)
	set.Counters("labelled_total", "l", "a", "b").With("x", "y").Inc()
	set.Gauges("unused", "u", "a")
	set.Histograms(measure.Seconds(0.005, 1), "took_seconds", "t").With().Took(20 * time.Millisecond)
	set.Read("found", "f", []string{"of"}, func(tell func(float64, ...string)) { tell(3, "it") })
	want := `# HELP found f
# TYPE found gauge
found{of="it"} 3
# HELP labelled_total l
# TYPE labelled_total counter
labelled_total{a="x",b="y"} 1
# HELP plain_total p
# TYPE plain_total counter
plain_total 2
# HELP took_seconds t
# TYPE took_seconds histogram
took_seconds_bucket{le="0.005"} 0
took_seconds_bucket{le="1"} 1
took_seconds_bucket{le="+Inf"} 1
took_seconds_sum 0.02
took_seconds_count 1
`
	registry := prometheus.NewRegistry()
	registry.MustRegister(set)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Body.String() != want {
		t.Errorf("got:\n%s", w.Body)
	}
}

func TestRequests(t *testing.T) {
	set := &measure.Set{}
	requests := measure.NewRequests(set)
	key := measure.Key{Verb: "POST", Scope: "resource", Version: "v1", Resource: "pods"}
	for status := 400; status < 410; status++ { // more than have places of their own
		requests.Of(&key).Done(status, time.Millisecond, 0, -1)
		requests.Of(&key).Done(status, time.Millisecond, 0, -1)
	}
	key.DryRun = "All"
	requests.Of(&key).Done(201, time.Second, 900*time.Millisecond, -1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(set)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			switch {
			case m.Counter != nil:
				counts[f.GetName()] += m.Counter.GetValue()
			case m.Histogram != nil:
				counts[f.GetName()] += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	for name, want := range map[string]float64{
		"apiserver_request_total": 21, "apiserver_request_duration_seconds": 21, "apiserver_request_sli_duration_seconds": 21,
	} {
		if counts[name] != want {
			t.Errorf("%s: %v, want %v", name, counts[name], want)
		}
	}
}

// BenchmarkRequest is what counting costs each request.
func BenchmarkRequest(b *testing.B) {
	requests := measure.NewRequests(&measure.Set{})
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			key := measure.Key{Verb: "GET", Scope: "resource", Version: "v1", Resource: "configmaps"}
			requests.Of(&key).Done(200, 200*time.Microsecond, 0, 900)
		}
	})
}
