// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// maxEvents bounds the events that wait to be written; more are dropped, as events may be.
const maxEvents = 512

// Recorder writes Events about objects. The same event again raises the count of the first.
type Recorder struct {
	events    client.Resource[corev1.Event]
	component string

	mu      sync.Mutex
	waiting []*corev1.Event
	running bool
	seen    map[string]seen
}

type seen struct {
	name  string
	count int32
	first metav1.Time
}

// NewRecorder returns a recorder that writes as component.
func NewRecorder(c *client.Client, component string) *Recorder {
	return &Recorder{events: client.Of(c, core.Events), component: component, seen: map[string]seen{}}
}

// Normal records that something went as it should.
func (r *Recorder) Normal(ctx context.Context, kind *resource.Kind, about resource.Object, reason, format string, args ...any) {
	r.record(ctx, kind, about, corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...))
}

// Warning records that something did not.
func (r *Recorder) Warning(ctx context.Context, kind *resource.Kind, about resource.Object, reason, format string, args ...any) {
	r.record(ctx, kind, about, corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
}

func (r *Recorder) record(ctx context.Context, kind *resource.Kind, about resource.Object, level, reason, message string) {
	namespace := about.GetNamespace()
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.NewTime(time.Now())
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", about.GetName(), now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: about.GetNamespace(), Name: about.GetName(),
			UID: about.GetUID(), ResourceVersion: about.GetResourceVersion(),
		},
		Reason: reason, Message: message, Type: level, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: r.component}, ReportingController: r.component,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) >= maxEvents {
		return
	}
	r.waiting = append(r.waiting, e)
	if !r.running {
		r.running = true
		go r.drain(context.WithoutCancel(ctx)) // ends when nothing waits
	}
}

// drain writes what waits, in order, one at a time.
func (r *Recorder) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 {
			r.running = false
			r.mu.Unlock()
			return
		}
		e := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.mu.Unlock()
		r.write(ctx, e)
	}
}

func (r *Recorder) write(ctx context.Context, e *corev1.Event) {
	h := fnv.New64a()
	fmt.Fprint(h, e.InvolvedObject.UID, e.Reason, e.Message, e.Type)
	key := fmt.Sprintf("%s/%x", e.Namespace, h.Sum64())
	before, again := r.seen[key]
	if again {
		e.Name, e.FirstTimestamp, e.Count = before.name, before.first, before.count+1
		current, err := r.events.Get(ctx, client.Key{Namespace: e.Namespace, Name: e.Name})
		if err == nil {
			next := current.DeepCopy()
			next.Count, next.LastTimestamp = e.Count, e.LastTimestamp
			if _, err = r.events.Update(ctx, next); err == nil {
				r.seen[key] = seen{e.Name, e.Count, e.FirstTimestamp}
				return
			}
		}
		if !apierrors.IsNotFound(err) {
			return // an event is no promise
		}
	}
	if len(r.seen) >= 4*maxEvents {
		clear(r.seen)
	}
	r.seen[key] = seen{e.Name, e.Count, e.FirstTimestamp}
	_, _ = r.events.Create(ctx, e) // an event is no promise
}
