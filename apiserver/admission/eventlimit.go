// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"container/list"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
)

// EventLimit bounds how many events are written: QPS a second, and Burst at once, for each key of its type.
type EventLimit struct {
	// Type is Server, Namespace, User or SourceAndObject.
	Type string `json:"type"`
	QPS  int32  `json:"qps"`
	// Burst is how many may come at once.
	Burst int32 `json:"burst"`
	// CacheSize is how many keys are remembered, those used last; 4096 if 0.
	CacheSize int32 `json:"cacheSize,omitempty"`
}

// key is what a limit counts by.
func (l *EventLimit) key(r *Request) string {
	switch l.Type {
	case "Namespace":
		return r.Namespace
	case "User":
		return r.User.Name
	case "SourceAndObject":
		if e, ok := any(r.Object).(*corev1.Event); ok {
			o := &e.InvolvedObject
			return strings.Join([]string{e.Source.Component, e.Source.Host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion}, "")
		}
	}
	return ""
}

// eventRateLimit refuses events of those who write too many.
func eventRateLimit(limits []EventLimit, now func() time.Time) Step {
	buckets := make([]*buckets, len(limits))
	for i := range limits {
		buckets[i] = newBuckets(&limits[i])
	}
	return Step{Name: "EventRateLimit", Validate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Events.Kind) && !updates(r, core.Events.Kind) || r.served().Group != "" || r.DryRun {
			return nil
		}
		var problems []string
		for i := range limits {
			if key := limits[i].key(r); !buckets[i].take(key, now()) {
				problems = append(problems, fmt.Sprintf("limit reached on type %s for key %s", limits[i].Type, key))
			}
		}
		if len(problems) == 0 {
			return nil
		}
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
			Message: "Too many requests: " + aggregate(problems),
		}}
	}}
}

// buckets holds tokens for the keys that were used last.
type buckets struct {
	rate, burst float64
	size        int

	mu    sync.Mutex
	byKey map[string]*list.Element // of *bucket
	used  list.List                // the last used in front
}

type bucket struct {
	key    string
	tokens float64
	at     time.Time
}

func newBuckets(l *EventLimit) *buckets {
	b := &buckets{rate: float64(l.QPS), burst: float64(l.Burst), size: int(l.CacheSize), byKey: map[string]*list.Element{}}
	if b.size <= 0 {
		b.size = 4096
	}
	return b
}

// take takes one token of a key, if there is one.
func (b *buckets) take(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.byKey[key]
	if e == nil {
		if b.used.Len() >= b.size {
			delete(b.byKey, b.used.Remove(b.used.Back()).(*bucket).key)
		}
		e = b.used.PushFront(&bucket{key: key, tokens: b.burst, at: now})
		b.byKey[key] = e
	}
	b.used.MoveToFront(e)
	k := e.Value.(*bucket)
	k.tokens, k.at = min(b.burst, k.tokens+now.Sub(k.at).Seconds()*b.rate), now
	if k.tokens < 1 {
		return false
	}
	k.tokens--
	return true
}
