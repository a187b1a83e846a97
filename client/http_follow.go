// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
)

// pageSize is how many objects one page of a list holds.
const pageSize = 500

// errExpired means that a watch cannot go on where it was.
var errExpired = errors.New("the revision is gone")

// run follows the server until ctx ends, or until it refuses the first question for good.
func (v *view) run(ctx context.Context) {
	backoff := viewBackoffMin
	for ctx.Err() == nil {
		began := time.Now()
		err := v.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errExpired) {
			v.revision = ""
		}
		if !v.complete() && hopeless(err) {
			v.failed = err
			close(v.ready)
			return
		}
		if err == nil || time.Since(began) > viewBackoffMax {
			backoff = viewBackoffMin
		}
		if err != nil {
			v.transport.log.Debug("watch ended", "resource", v.kind.Resource, "err", err)
		}
		if sleep(ctx, backoff/2+rand.N(backoff)) != nil {
			return
		}
		if err != nil {
			backoff = min(2*backoff, viewBackoffMax)
		}
	}
}

// hopeless says that the server understood the question and will not answer it.
func hopeless(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsNotFound(err) ||
		apierrors.IsMethodNotSupported(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotAcceptable(err)
}

// session lists if it must, and then watches until the watch ends. A proper end is nil.
func (v *view) session(ctx context.Context) error {
	if v.revision != "" {
		return v.follow(ctx, v.request("watch"))
	}
	if !v.listOnly {
		q := v.request("watch")
		initial := true
		q.SendInitialEvents, q.ResourceVersionMatch = &initial, metav1.ResourceVersionMatchNotOlderThan
		err := v.follow(ctx, q)
		if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
			return err
		}
		v.listOnly = true
	}
	if err := v.list(ctx); err != nil {
		return err
	}
	return v.follow(ctx, v.request("watch"))
}

func (v *view) request(verb string) *call.Request {
	q := &call.Request{Verb: verb, Kind: v.kind, Labels: v.labels, Fields: v.fields}
	if verb == "watch" {
		q.ResourceVersion, q.AllowBookmarks = v.revision, true
		q.Timeout = viewWatchMin + rand.N(viewWatchMin)
	}
	return q
}

// list reads everything, page by page, and replaces the view's objects.
func (v *view) list(ctx context.Context) error {
	var items []resource.Object
	q, seen := v.request("list"), v.seen()
	q.Limit = pageSize
	for {
		res, err := v.transport.Do(ctx, q)
		if apierrors.IsResourceExpired(err) && q.Continue != "" {
			// The pages took longer than the server remembers: take everything at once.
			items = nil
			q = v.request("list")
			continue
		}
		if err != nil {
			return err
		}
		if res.List == nil {
			return apierrors.NewInternalError(errors.New("the answer to a list is no list"))
		}
		items = append(items, res.List.Items...)
		if res.List.Continue == "" {
			v.revision = res.List.ResourceVersion
			n, _ := strconv.ParseUint(v.revision, 10, 64)
			v.load(items, n, seen)
			return nil
		}
		next := v.request("list")
		next.Limit, next.Continue = pageSize, res.List.Continue
		q = next
	}
}

// follow watches, and takes in what it is told until the watch ends.
func (v *view) follow(ctx context.Context, q *call.Request) error {
	seen := v.seen()
	stream, err := v.transport.Watch(ctx, q)
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		return errExpired
	}
	if err != nil {
		return err
	}
	defer stream.Close()
	end := stream.Close
	v.end.Store(&end)
	f := follower{view: v, initial: q.SendInitialEvents != nil, seen: seen}
	var events []watch.Event
	for {
		e, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			if f.initial {
				return apierrors.NewServiceUnavailable("the watch ended before the initial events did")
			}
			return nil
		}
		if err != nil {
			return err
		}
		events = append(events[:0], e)
		if s, ok := stream.(*httpStream); ok {
			for len(events) < streamBuffer {
				more, ok := s.more()
				if !ok {
					break
				}
				events = append(events, more)
			}
		}
		if err := f.take(events); err != nil {
			return err
		}
	}
}

// follower takes in the events of one watch.
type follower struct {
	view *view
	// initial says that the events so far are a list; items are its objects.
	initial bool
	items   []resource.Object
	seen    uint64 // the newest revision before the watch
}

func (f *follower) take(events []watch.Event) error {
	for len(events) > 0 && f.initial {
		e := events[0]
		events = events[1:]
		if err := f.takeInitial(e); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	v := f.view
	v.mu.Lock()
	defer v.mu.Unlock()
	defer v.publish()
	for _, e := range events {
		o, err := eventObject(e)
		if err != nil {
			return err
		}
		switch {
		case v.stale(revisionOf(o)):
		case e.Type == watch.Added || e.Type == watch.Modified:
			v.put(o)
		case e.Type == watch.Deleted:
			v.drop(KeyOf(o), revisionOf(o))
		}
		v.revision = o.GetResourceVersion()
	}
	return nil
}

func (f *follower) takeInitial(e watch.Event) error {
	o, err := eventObject(e)
	if err != nil {
		return err
	}
	switch e.Type {
	case watch.Added, watch.Modified:
		f.items = append(f.items, o)
	case watch.Deleted:
		for i, have := range f.items {
			if KeyOf(have) == KeyOf(o) {
				f.items = append(f.items[:i], f.items[i+1:]...)
				break
			}
		}
	case watch.Bookmark:
		if o.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
			return nil
		}
		f.view.revision = o.GetResourceVersion()
		f.view.load(f.items, revisionOf(o), f.seen)
		f.initial, f.items = false, nil
	}
	return nil
}

// eventObject is the object of an event, or the error that it carries.
func eventObject(e watch.Event) (resource.Object, error) {
	if e.Type == watch.Error {
		err := apierrors.FromObject(e.Object)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return nil, errExpired
		}
		return nil, err
	}
	o, ok := e.Object.(resource.Object)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("a watch event carries no object"))
	}
	return o, nil
}

// viewsOf are the views of a kind, complete or not.
func (h *HTTP) viewsOf(k *resource.Kind) []*view {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*view
	for key, v := range h.views {
		if key.kind == k {
			out = append(out, v)
		}
	}
	return out
}

// wrote makes a write visible in the views of its kind.
func (h *HTTP) wrote(ctx context.Context, q *call.Request, res *call.Result) {
	if q.Verb == "get" || q.Verb == "list" || q.Subresource == "token" || q.DryRun || q.Delete != nil && len(q.Delete.DryRun) > 0 {
		return
	}
	views := h.viewsOf(q.Kind)
	if len(views) == 0 {
		return
	}
	o := res.Object
	switch {
	case q.Verb == "deletecollection":
		h.reload(ctx, views)
	case q.Verb == "delete" && res.Status != nil && res.Status.Details != nil && res.Status.Details.UID != "":
		for _, v := range views {
			v.bury(v.key(q.Namespace, q.Name), res.Status.Details.UID)
		}
	case o != nil && sameKind(q.Kind, o) && lives(q, o):
		for _, v := range views {
			v.write(o)
		}
	default:
		h.reread(ctx, q, views)
	}
}

// lives says that the answer to a write is certainly the object as it now is, and not the last state of one that is gone.
func lives(q *call.Request, o resource.Object) bool {
	if o.GetDeletionTimestamp() == nil {
		return q.Verb != "delete"
	}
	grace := o.GetDeletionGracePeriodSeconds()
	return len(o.GetFinalizers()) > 0 || grace != nil && *grace > 0
}

func sameKind(k *resource.Kind, o runtime.Object) bool {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u.GroupVersionKind() == k.GroupVersionKind
	}
	return reflect.TypeOf(k.New()) == reflect.TypeOf(o)
}

// reread asks for the object that a write changed without answering with it, as bindings and evictions do. If that
// fails, the watch will show the write.
func (h *HTTP) reread(ctx context.Context, q *call.Request, views []*view) {
	type known struct {
		v *view
		o resource.Object
	}
	var before []known
	for _, v := range views {
		if o, ok := v.Get(q.Namespace, q.Name); ok {
			before = append(before, known{v, o})
		}
	}
	res, err := h.Do(ctx, &call.Request{Verb: "get", Kind: q.Kind, Namespace: q.Namespace, Name: q.Name})
	switch {
	case apierrors.IsNotFound(err):
		for _, k := range before {
			k.v.bury(KeyOf(k.o), k.o.GetUID())
		}
	case err == nil && res.Object != nil:
		for _, v := range views {
			v.write(res.Object)
		}
	}
}

// reload brings views up to date after a deletion of many objects. If that fails, the watch will show it.
func (h *HTTP) reload(ctx context.Context, views []*view) {
	for _, v := range views {
		res, err := h.Do(ctx, &call.Request{Verb: "list", Kind: v.kind, Labels: v.labels, Fields: v.fields})
		if err == nil && res.List != nil {
			revision, _ := strconv.ParseUint(res.List.ResourceVersion, 10, 64)
			v.replace(res.List.Items, revision)
		}
	}
}
