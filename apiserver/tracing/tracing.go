// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package tracing tells an OpenTelemetry collector what requests do, and how long each part takes.
//
// A Tracer is made from a TracingConfiguration. It begins one span for a request, and others inside of it; what is not sampled costs next
// to nothing, and all methods of a nil Tracer and of a zero Span do nothing. Spans go out in batches, over OTLP and gRPC; those that the
// collector does not take in time are dropped. Names and attributes are those of Kubernetes' spans. Start with New.
//
// See https://kubernetes.io/docs/concepts/cluster-administration/system-traces/.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Names of the spans' origin.
const (
	serviceName = "apiserver"
	scopeName   = "knarr.dev/apiserver"
)

// million is the sampling rate at which every request is traced.
const million = 1_000_000

// Tracer makes spans.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	export   *exporter
}

// New returns a tracer. instance tells servers apart. It connects to nobody until there are spans; it must be closed.
func New(c *Config, instance string, log *slog.Logger) (*Tracer, error) {
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure()}
	if c.Endpoint != "" {
		options = append(options, otlptracegrpc.WithEndpoint(c.Endpoint))
	}
	to, err := otlptracegrpc.New(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(context.Background(), resource.WithFromEnv(), resource.WithAttributes(
		attribute.String("service.name", serviceName), attribute.String("service.instance.id", instance)))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	root := sdk.NeverSample()
	if c.SamplingRatePerMillion > 0 {
		root = sdk.TraceIDRatioBased(float64(c.SamplingRatePerMillion) / million)
	}
	giveUp, cancel := context.WithCancel(context.Background())
	e := &exporter{SpanExporter: to, log: log, giveUp: giveUp, cancel: cancel}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(e), sdk.WithResource(about), sdk.WithSampler(sdk.ParentBased(root)))
	return &Tracer{provider: provider, tracer: provider.Tracer(scopeName), export: e}, nil
}

// closeTimeout is how long the last spans may take to be sent.
const closeTimeout = 3 * time.Second

// Close sends the spans that have ended, if the collector takes them soon, and ends the tracer.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	defer t.export.cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.export.log.Warn("last traces were not sent", "err", err)
	}
	return nil
}

// exporter tells a log what becomes of spans, which the SDK would tell the whole process.
type exporter struct {
	sdk.SpanExporter
	log *slog.Logger
	// failing says that the last batch was not sent.
	failing atomic.Bool
	// giveUp ends when the tracer does.
	giveUp context.Context
	cancel context.CancelFunc
}

// ExportSpans implements sdk.SpanExporter. It says once that the collector cannot be reached, and once that it can be again.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.giveUp, cancel)()
	err := e.SpanExporter.ExportSpans(ctx, spans)
	switch was := e.failing.Swap(err != nil); {
	case err != nil && !was:
		e.log.Warn("traces are not sent", "err", err)
	case err == nil && was:
		e.log.Info("traces are sent again")
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (e *exporter) Shutdown(ctx context.Context) error {
	if err := e.SpanExporter.Shutdown(ctx); err != nil {
		e.log.Debug("connection to the collector of traces was cut", "err", err)
	}
	return nil
}

// Span is a part of a request. A zero one is not recorded.
type Span struct{ span trace.Span }

// Recording says that somebody wants to know about the span: others need no attributes.
func (s Span) Recording() bool { return s.span != nil }

// Set adds attributes.
func (s Span) Set(attributes ...attribute.KeyValue) {
	if s.span != nil {
		s.span.SetAttributes(attributes...)
	}
}

// End ends the span.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}

// Answered ends the span of a request, or of a call to another server, which was answered with a status of HTTP, or not at all
// because of err.
func (s Span) Answered(code int, err error) {
	if s.span == nil {
		return
	}
	switch {
	case err != nil:
		s.span.RecordError(err)
		s.span.SetStatus(codes.Error, err.Error())
	case code >= http.StatusInternalServerError:
		s.span.SetStatus(codes.Error, "")
	}
	if code > 0 {
		s.span.SetAttributes(attribute.Int("http.response.status_code", code))
	}
	s.span.End()
}

// Start begins a span inside of that of ctx; if that is not recorded, neither is this one.
func (t *Tracer) Start(ctx context.Context, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, name)
}

func (t *Tracer) start(ctx context.Context, name string) (context.Context, Span) {
	if !trace.SpanContextFromContext(ctx).IsSampled() { // the span itself may have ended
		return ctx, Span{}
	}
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, Span{span}
}

// Local begins the span of a request of this process. One that another request brought about belongs to that one.
func (t *Tracer) Local(ctx context.Context, name string) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, recorded(span)
}

// Request begins the span of a request that came from elsewhere. Only of a sender who is trusted counts which trace it says that it
// belongs to, and whether that one is sampled.
func (t *Tracer) Request(r *http.Request, name string, trusted bool) (context.Context, Span) {
	ctx := r.Context()
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	if sent := (propagation.TraceContext{}).Extract(ctx, propagation.HeaderCarrier(r.Header)); trusted {
		ctx = sent
	} else {
		options = append(options, trace.WithNewRoot())
		if other := trace.SpanContextFromContext(sent); other.IsValid() && other.IsRemote() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: other}))
		}
	}
	ctx, span := t.tracer.Start(ctx, name, options...)
	return ctx, recorded(span)
}

func recorded(span trace.Span) Span {
	if !span.IsRecording() {
		return Span{}
	}
	return Span{span}
}

// Call begins the span of a request to another server, which is told the trace that it belongs to. It does nothing if ctx belongs to none.
func Call(r *http.Request) (*http.Request, Span) {
	around := trace.SpanFromContext(r.Context())
	if !around.SpanContext().IsValid() {
		return r, Span{}
	}
	ctx, out := r.Context(), Span{}
	if around.SpanContext().IsSampled() {
		var span trace.Span
		ctx, span = around.TracerProvider().Tracer(scopeName).Start(ctx, "HTTP "+r.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("http.request.method", r.Method), attribute.String("url.full", r.URL.Redacted()), attribute.String("server.address", r.URL.Hostname())))
		r, out = r.WithContext(ctx), Span{span}
	}
	Pass(ctx, r.Header)
	return r, out
}

// Pass tells another server the trace that ctx belongs to, if it does.
func Pass(ctx context.Context, header http.Header) {
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
}
