// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"sync/atomic"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/util/flowcontrol"
)

// BatchConfig bounds how events are gathered.
type BatchConfig struct {
	// Buffer is how many events wait at most; further ones are dropped, and counted.
	Buffer int
	// MaxSize and MaxWait bound one batch.
	MaxSize int
	MaxWait time.Duration
	// QPS and Burst bound batches a second; QPS 0 is no bound.
	QPS   float32
	Burst int
	Log   *slog.Logger
}

// Batch hands events on in batches, so that requests do not wait for a slow sink. Run must run.
type Batch struct {
	cfg     BatchConfig
	to      Sink
	events  chan *auditv1.Event
	dropped atomic.Int64
	limit   flowcontrol.RateLimiter
}

// NewBatch returns a batch in front of a sink.
func NewBatch(to Sink, cfg BatchConfig) *Batch {
	b := &Batch{cfg: cfg, to: to, events: make(chan *auditv1.Event, max(cfg.Buffer, 1)), limit: flowcontrol.NewFakeAlwaysRateLimiter()}
	if cfg.QPS > 0 {
		b.limit = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, max(cfg.Burst, 1))
	}
	return b
}

// Dropped is how many events were lost because the buffer was full.
func (b *Batch) Dropped() int64 { return b.dropped.Load() }

// Write implements Sink. It never waits, and what happens to events later is no error.
func (b *Batch) Write(events ...*auditv1.Event) error {
	for _, e := range events {
		select {
		case b.events <- e:
		default:
			if b.dropped.Add(1) == 1 {
				b.cfg.Log.Error("audit buffer is full: events are dropped", "buffer", cap(b.events))
			}
		}
	}
	return nil
}

// Run sends batches until ctx ends, and then what is left.
func (b *Batch) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if batch := b.gather(ctx); len(batch) > 0 {
			b.limit.Accept()
			_ = b.to.Write(batch...)
		}
	}
	for {
		batch := b.rest()
		if len(batch) == 0 {
			return nil
		}
		_ = b.to.Write(batch...)
	}
}

// gather waits for the events of one batch.
func (b *Batch) gather(ctx context.Context) (batch []*auditv1.Event) {
	var full <-chan time.Time
	for len(batch) < max(b.cfg.MaxSize, 1) {
		select {
		case e := <-b.events:
			batch = append(batch, e)
			if full == nil && b.cfg.MaxWait > 0 {
				timer := time.NewTimer(b.cfg.MaxWait)
				defer timer.Stop()
				full = timer.C
			}
		case <-full:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

func (b *Batch) rest() (batch []*auditv1.Event) {
	for len(batch) < max(b.cfg.MaxSize, 1) {
		select {
		case e := <-b.events:
			batch = append(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// Truncate bounds the size of events, in bytes of JSON: one that is too large loses the bodies of request and response, and is dropped if
// that does not help. Batches that are larger than MaxBatch, if it is not 0, are divided.
type Truncate struct {
	To                 Sink
	MaxEvent, MaxBatch int
	Log                *slog.Logger
}

// TruncatedAnnotation marks events that lost their bodies.
const TruncatedAnnotation = "audit.k8s.io/truncated"

// Write implements Sink.
func (t *Truncate) Write(events ...*auditv1.Event) error {
	kept := make([]*auditv1.Event, 0, len(events))
	var problems []error
	total := 0
	for _, e := range events {
		size := sizeOf(e)
		if size > t.MaxEvent {
			small := *e
			small.RequestObject, small.ResponseObject = nil, nil
			small.Annotations = map[string]string{TruncatedAnnotation: "true"}
			maps.Copy(small.Annotations, e.Annotations)
			if size = sizeOf(&small); size > t.MaxEvent {
				t.Log.Error("an audit event is too large even without bodies: dropped", "id", e.AuditID)
				problems = append(problems, fmt.Errorf("audit event %s is too large", e.AuditID))
				continue
			}
			e = &small
		}
		if t.MaxBatch > 0 && len(kept) > 0 && total+size > t.MaxBatch {
			problems = append(problems, t.To.Write(kept...))
			kept, total = nil, 0
		}
		kept, total = append(kept, e), total+size
	}
	if len(kept) > 0 {
		problems = append(problems, t.To.Write(kept...))
	}
	return errors.Join(problems...)
}

// sizeOf is the length of an event in JSON; one that has none is too large.
func sizeOf(e *auditv1.Event) int {
	b, err := json.Marshal(e)
	if err != nil {
		return math.MaxInt
	}
	return len(b)
}
