// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/node/pod"
)

// Bounds of the recorder: events waiting to be sent, events known for counting, and the time that counting goes on.
const (
	eventQueue = 1000
	eventKnown = 4096
	eventAge   = 10 * time.Minute
)

// recorder sends events; ones that come again raise a count.
type recorder struct {
	client *client.Client
	log    *slog.Logger
	queue  chan *corev1.Event
	known  map[string]*corev1.Event
}

func newRecorder(c *client.Client, log *slog.Logger) *recorder {
	return &recorder{client: c, log: log, queue: make(chan *corev1.Event, eventQueue), known: map[string]*corev1.Event{}}
}

// add queues an event, or drops it when too many wait.
func (r *recorder) add(e *corev1.Event) {
	select {
	case r.queue <- e:
	default:
		r.log.Debug("dropped an event", "reason", e.Reason, "object", e.InvolvedObject.Name)
	}
}

// run sends events until ctx ends.
func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.queue:
			if err := r.send(ctx, e); err != nil && ctx.Err() == nil {
				r.log.Debug("cannot send an event", "reason", e.Reason, "object", e.InvolvedObject.Name, "error", err)
			}
		}
	}
}

func (r *recorder) send(ctx context.Context, e *corev1.Event) error {
	key := strings.Join([]string{string(e.InvolvedObject.UID), e.InvolvedObject.FieldPath, e.Type, e.Reason, e.Message}, "\x00")
	events := client.Of(r.client, core.Events)
	if old := r.known[key]; old != nil && e.LastTimestamp.Sub(old.LastTimestamp.Time) < eventAge {
		next := old.DeepCopy()
		next.Count++
		next.LastTimestamp = e.LastTimestamp
		next.ResourceVersion = ""
		written, err := events.Update(ctx, next)
		if err == nil {
			r.known[key] = written
			return nil
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	if len(r.known) >= eventKnown {
		clear(r.known)
	}
	written, err := events.Create(ctx, e)
	if err == nil {
		r.known[key] = written
	}
	return err
}

// event reports something that happened to a pod or to one of its containers.
func (a *Agent) event(p *corev1.Pod, container, kind, reason, message string) {
	ref := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	if s, ok := pod.Find(p, container); ok {
		list := "containers"
		switch s.Role {
		case pod.Init, pod.Sidecar:
			list = "initContainers"
		case pod.Ephemeral:
			list = "ephemeralContainers"
		}
		ref.FieldPath = fmt.Sprintf("spec.%s{%s}", list, container)
	}
	a.reports.Event(a.newEvent(ref, kind, reason, message))
}

// nodeEvent reports something that happened to the node.
func (a *Agent) nodeEvent(kind, reason, message string) {
	ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: a.config.Name, UID: a.nodeUID()}
	a.reports.Event(a.newEvent(ref, kind, reason, message))
}

func (a *Agent) newEvent(ref corev1.ObjectReference, kind, reason, message string) *corev1.Event {
	now := metav1.NewTime(a.now())
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	if len(message) > 1024 {
		message = strings.ToValidUTF8(message[:1021], "") + "..."
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, a.sequence.Add(1)+uint64(now.UnixNano()))},
		InvolvedObject: ref, Type: kind, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: "kubelet", Host: a.config.Name},
		ReportingController: "kubelet", ReportingInstance: a.config.Name,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}
