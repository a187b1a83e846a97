// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tracetest has a collector of traces for tests. It speaks OTLP over gRPC, as real ones do, and keeps what it gets.
package tracetest

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
)

// Span is a span that arrived. IDs are in hexadecimal; Parent is empty for a root.
type Span struct {
	Trace, ID, Parent string
	Name              string
	// Kind is SERVER, CLIENT or INTERNAL.
	Kind       string
	Attributes map[string]string
	// Resource is what the span's sender says of itself.
	Resource map[string]string
	// Links are the traces that it names beside its own.
	Links []string
	began uint64
}

// Collector collects spans.
type Collector struct {
	// Endpoint is its HOST:PORT.
	Endpoint string

	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []Span
}

// Start runs a collector until the test ends.
func Start(t testing.TB) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Endpoint: l.Addr().String()}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("collector of traces: %v", err)
		}
	})
	return c
}

// Export implements the service.
func (c *Collector) Export(_ context.Context, q *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range q.ResourceSpans {
		for _, scope := range from.ScopeSpans {
			for _, s := range scope.Spans {
				span := Span{
					Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					Name: s.Name, Kind: strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_"),
					Attributes: texts(s.Attributes), Resource: texts(from.Resource.Attributes), began: s.StartTimeUnixNano,
				}
				for _, l := range s.Links {
					span.Links = append(span.Links, hex.EncodeToString(l.TraceId))
				}
				c.spans = append(c.spans, span)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func texts(attributes []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out[a.Key] = v.StringValue
		default:
			_, out[a.Key], _ = strings.Cut(a.Value.String(), ":")
		}
	}
	return out
}

// Spans are those that arrived of a trace, or all if it is empty, in the order in which they began.
func (c *Collector) Spans(trace string) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.DeleteFunc(slices.Clone(c.spans), func(s Span) bool { return trace != "" && s.Trace != trace })
	slices.SortStableFunc(out, func(a, b Span) int { return int(int64(a.began) - int64(b.began)) })
	return out
}

// Tree draws spans as they lie in each other, without those of parents that are not among them but roots: "a(b(c) d)".
func Tree(spans []Span) string {
	known := map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	var draw func(parent string) string
	draw = func(parent string) string {
		var parts []string
		for _, s := range spans {
			if s.Parent != parent && (parent != "" || known[s.Parent]) {
				continue
			}
			text := s.Name
			if inside := draw(s.ID); inside != "" {
				text += "(" + inside + ")"
			}
			parts = append(parts, text)
		}
		return strings.Join(parts, " ")
	}
	return draw("")
}
