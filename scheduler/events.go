// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/events"
	"knarr.dev/client"
)

// Bounds of what is kept for events; more are dropped, as events may be.
const (
	maxEvents  = 4096
	maxSeries  = 4096
	writers    = 8
	seriesLife = 6 * time.Minute
)

// recorder writes Events. The same event again within seriesLife continues the series of the first.
type recorder struct {
	events     client.Resource[eventsv1.Event]
	controller string
	instance   string
	waiting    chan *eventsv1.Event

	mu     sync.Mutex
	series map[eventKey]series
}

type eventKey struct {
	pod          types.UID
	reason, note string
}

type series struct {
	name  string
	count int32
	last  time.Time
}

func newRecorder(c *client.Client, controller string) *recorder {
	instance := controller
	if host, err := os.Hostname(); err == nil {
		instance += "-" + host
	}
	return &recorder{
		events: client.Of(c, events.Events), controller: controller, instance: instance, waiting: make(chan *eventsv1.Event, maxEvents),
		series: map[eventKey]series{},
	}
}

// record queues an event about a pod; related may be nil.
func (r *recorder) record(p, related *corev1.Pod, level, reason, action, note string) {
	now := time.Now()
	e := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprintf("%s.%x", p.Name, now.UnixNano())},
		EventTime:  metav1.NewMicroTime(now), ReportingController: r.controller, ReportingInstance: r.instance,
		Type: level, Reason: reason, Action: action, Note: shorten(note, 1024), Regarding: reference(p),
	}
	if related != nil {
		ref := reference(related)
		e.Related = &ref
	}
	select {
	case r.waiting <- e:
	default:
	}
}

func reference(p *corev1.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
}

func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return s[:limit-4] + "..."
}

// run writes until ctx ends.
func (r *recorder) run(ctx context.Context) {
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case e := <-r.waiting:
					r.write(ctx, e)
				}
			}
		})
	}
	group.Wait()
}

// write creates an event or continues a series. Errors are ignored: an event is no promise.
func (r *recorder) write(ctx context.Context, e *eventsv1.Event) {
	key, at := eventKey{e.Regarding.UID, e.Reason, e.Note}, e.EventTime.Time
	before, again := r.next(key, e.Name, at)
	if again {
		patch := fmt.Sprintf(`{"series":{"count":%d,"lastObservedTime":%q}}`, before.count, at.UTC().Format(metav1.RFC3339Micro))
		name := client.Key{Namespace: e.Namespace, Name: before.name}
		if _, err := r.events.Patch(ctx, name, types.MergePatchType, []byte(patch), ""); err == nil {
			return
		}
		r.mu.Lock()
		r.series[key] = series{e.Name, 1, at}
		r.mu.Unlock()
	}
	_, _ = r.events.Create(ctx, e)
}

// next notes that an event happened; again tells that it continues a series.
func (r *recorder) next(key eventKey, name string, at time.Time) (s series, again bool) {
	if key.reason != failedScheduling {
		return series{}, false // happens once
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, again = r.series[key]; again && at.Sub(s.last) < seriesLife {
		s.count, s.last = s.count+1, at
		r.series[key] = s
		return s, true
	}
	if len(r.series) >= maxSeries {
		clear(r.series)
	}
	s = series{name, 1, at}
	r.series[key] = s
	return s, false
}
