// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package tracing_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"knarr.dev/apiserver/tracing"
	"knarr.dev/apiserver/tracing/tracetest"
)

func TestParseConfiguration(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n"
	for _, row := range []struct {
		text string
		want tracing.Config
		err  string
	}{
		{text: head},
		{text: head + "endpoint: collector:4317\nsamplingRatePerMillion: 100\n", want: tracing.Config{Endpoint: "collector:4317", SamplingRatePerMillion: 100}},
		{text: strings.Replace(head, "/v1", "/v1beta1", 1) + "endpoint: unix:///run/otel", want: tracing.Config{Endpoint: "unix:///run/otel"}},
		{text: strings.Replace(head, "/v1", "/v2", 1), err: "it is a apiserver.config.k8s.io/v2 TracingConfiguration"},
		{text: head + "samplingRatePerMillion: -1", err: "samplingRatePerMillion: Invalid value: -1"},
		{text: head + "samplingRatePerMillion: 1000001", err: "samplingRatePerMillion: Invalid value: 1000001"},
		{text: head + "endpoint: https://collector:4317", err: `endpoint: Invalid value: "https://collector:4317": unsupported scheme: https`},
		{text: head + "rate: 1", err: `unknown field "rate"`},
	} {
		c, err := tracing.ParseConfiguration([]byte(row.text))
		if row.err != "" {
			if err == nil || !strings.Contains(err.Error(), row.err) {
				t.Errorf("%s: error %v, want %s", row.text, err, row.err)
			}
			continue
		}
		if err != nil || *c != row.want {
			t.Errorf("%s: %+v, %v", row.text, c, err)
		}
	}
}

// TestCall looks at what the other server is told of the trace.
func TestCall(t *testing.T) {
	collector := tracetest.Start(t)
	for _, row := range []struct {
		rate int32
		flag string
	}{{1_000_000, "-01"}, {0, "-00"}} {
		tracer, err := tracing.New(&tracing.Config{Endpoint: collector.Endpoint, SamplingRatePerMillion: row.rate}, "one", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := tracer.Local(t.Context(), "GET /here")
		r, call := tracing.Call(httptest.NewRequestWithContext(ctx, http.MethodPost, "https://other/there", nil))
		call.Answered(0, errors.New("nobody there"))
		span.Answered(http.StatusOK, nil)
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
		parent := strings.Split(r.Header.Get("Traceparent"), "-")
		if len(parent) != 4 || "-"+parent[3] != row.flag {
			t.Fatalf("rate %d: told %q", row.rate, parent)
		}
		spans, want := collector.Spans(parent[1]), ""
		if row.rate > 0 {
			want = "GET /here(HTTP POST)"
		}
		if got := tracetest.Tree(spans); got != want {
			t.Errorf("rate %d: spans %s", row.rate, got)
		}
		if want != "" && (spans[1].ID != parent[2] || spans[1].Kind != "CLIENT" || spans[1].Attributes["url.full"] != "https://other/there") {
			t.Errorf("%+v", spans[1])
		}
	}
	if r, _ := tracing.Call(httptest.NewRequest(http.MethodPost, "https://other/there", nil)); len(r.Header) != 0 {
		t.Errorf("outside of traces, the other server is told %v", r.Header)
	}
}

func TestNothingCostsNothing(t *testing.T) {
	var tracer *tracing.Tracer
	ctx := t.Context()
	if n := testing.AllocsPerRun(10, func() {
		inner, span := tracer.Start(ctx, "Create")
		if inner != ctx || span.Recording() {
			t.Error("a span of nobody")
		}
		span.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := tracer.Close(); err != nil {
		t.Error(err)
	}
}
