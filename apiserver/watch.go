// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// Times of watches: how often bookmarks are sent, and how long before its end a last one is.
const (
	bookmarkInterval = time.Minute
	bookmarkBefore   = 2 * time.Second
)

// watchEvent is one event of a watch, with the encodings of its object.
type watchEvent struct {
	kind   watch.EventType
	entry  *watchcache.Entry
	status *metav1.Status // of watch.Error
}

// watchStream is one watch of one resource. It is for one goroutine.
type watchStream struct {
	r       *registry
	match   func(resource.Object) bool
	inScope func(key string) bool
	cursor  *watchcache.Watcher
	// resumption goes before cursor, which is nil until the watch is caught up.
	resumption *watchcache.Resumption
	pending    []watchEvent
	bookmark   bool
	ticker     *time.Ticker
	deadline   *time.Timer
	last       *time.Timer
	stopped    <-chan struct{}
	closed     <-chan struct{} // nil if nobody but ctx ends it
	sent       int64           // revision of the last bookmark
	ended      bool
	over       bool // the resource is not served any more as it was
	listing    bool // it begins with all there is, and says when that was told
	of         watched
}

// watch opens a watch for an authorized request.
func (s *Server) watch(ctx context.Context, q *call.Request) (*watchStream, error) {
	r := s.registry(q.Kind)
	if r == nil || r.kind.Virtual {
		return nil, apierrors.NewMethodNotSupported(q.Kind.GroupResource(), "watch")
	}
	w, err := r.watch(ctx, q)
	if err != nil {
		return nil, r.status(q.Name, err)
	}
	return w, nil
}

func (r *registry) watch(ctx context.Context, q *call.Request) (*watchStream, error) {
	if err := r.checkListOptions(q, true); err != nil {
		return nil, err
	}
	if _, err := r.cache.WaitFor(ctx, 0); err != nil { // the server may be starting
		return nil, err
	}
	prefix := r.key(q.Namespace, "")
	exact := ""
	if q.Name != "" {
		exact = r.key(q.Namespace, q.Name)
	}
	w := &watchStream{
		r: r, match: r.matcher(q), bookmark: q.AllowBookmarks, stopped: r.server.stopped,
		inScope: func(key string) bool {
			if exact != "" {
				return key == exact
			}
			return len(key) > len(prefix) && key[:len(prefix)] == prefix
		},
	}
	initial := q.ResourceVersion == "" || q.ResourceVersion == "0"
	if q.SendInitialEvents != nil {
		initial = *q.SendInitialEvents
	}
	if err := w.open(ctx, q, initial); err != nil {
		return nil, err
	}
	w.of = watched{r.kind.Group, r.kind.Resource, q.Namespace, q.Name}
	r.server.watchers.add(w.of, 1)
	timeout := q.Timeout
	if timeout < 0 {
		w.pending = nil // it is over
	}
	if timeout == 0 {
		least := r.server.cfg.MinWatchTimeout
		timeout = least + rand.N(least)
	}
	w.deadline = time.NewTimer(timeout)
	if w.bookmark {
		w.ticker = time.NewTicker(bookmarkInterval)
		if timeout > bookmarkBefore {
			w.last = time.NewTimer(timeout - bookmarkBefore)
		}
	}
	return w, nil
}

// open places the cursor, after the initial events if they are asked for.
func (w *watchStream) open(ctx context.Context, q *call.Request, initial bool) error {
	c := w.r.cache
	if !initial {
		after, err := parseRevision(q.ResourceVersion)
		if q.ResourceVersion == "" || q.ResourceVersion == "0" {
			after, err = c.Newest().Revision, nil
		}
		if err != nil {
			return err
		}
		w.cursor, err = c.Watch(after)
		if errors.Is(err, watchcache.ErrGone) {
			w.resumption, err = c.Resume(ctx, after)
		}
		if errors.Is(err, watchcache.ErrGone) {
			return tooOld(after, c.Oldest())
		}
		return err
	}
	for {
		s, err := w.initialState(ctx, q)
		if err != nil {
			return err
		}
		w.cursor, err = c.Watch(s.Revision)
		if errors.Is(err, watchcache.ErrGone) {
			continue
		}
		if err != nil {
			return err
		}
		s.Range("", "", func(e *watchcache.Entry) bool {
			if w.inScope(e.Key) {
				if f := w.matching(e); f != nil {
					w.pending = append(w.pending, watchEvent{kind: watch.Added, entry: f})
				}
			}
			return true
		})
		w.r.server.metrics.initEvents.With(w.r.hub.Group, w.r.hub.Resource).Add(uint64(len(w.pending)))
		if q.AllowBookmarks && (q.SendInitialEvents != nil || q.ResourceVersion == "" || q.ResourceVersion == "0") { // an old watch from the start is the same
			w.pending = append(w.pending, w.bookmarkAt(s.Revision, true))
			w.listing = true
		}
		return nil
	}
}

func (w *watchStream) initialState(ctx context.Context, q *call.Request) (*watchcache.Snapshot, error) {
	switch {
	case q.ResourceVersion == "" && q.SendInitialEvents != nil:
		return w.r.cache.Fresh(ctx)
	case q.ResourceVersion == "":
		return w.r.cache.Recent(ctx)
	case q.ResourceVersion == "0":
		return w.r.cache.WaitFor(ctx, 0)
	}
	return w.r.notOlder(ctx, q.ResourceVersion)
}

func tooOld(asked, oldest int64) error {
	return apierrors.NewResourceExpired("too old resource version: " + strconv.FormatInt(asked, 10) + " (" + strconv.FormatInt(oldest, 10) + ")")
}

// matching is the served form of e if the selectors let it through, else nil.
func (w *watchStream) matching(e *watchcache.Entry) *watchcache.Entry {
	if e == nil {
		return nil
	}
	f, err := e.As(w.r.kind)
	if err != nil || w.match != nil && !w.match(f.Object) {
		return nil
	}
	return f
}

func (w *watchStream) bookmarkAt(revision int64, initialEnd bool) watchEvent {
	obj := w.r.kind.New()
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	if initialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	switch k := w.r.kind; { // what Kubernetes says of every object of these kinds, be it empty
	case k.Group == "apps" && k.Scale != nil:
		k.Scale.Set(obj, 0)
	case k.Group == "apps" && k.Resource == "daemonsets":
		annotations := map[string]string{appsv1.DeprecatedTemplateGeneration: "0"}
		maps.Copy(annotations, obj.GetAnnotations())
		obj.SetAnnotations(annotations)
	}
	w.sent = revision
	return watchEvent{kind: watch.Bookmark, entry: watchcache.NewEntry(w.r.kind, "", obj, revision)}
}

// convert appends what e means to this watch.
func (w *watchStream) convert(e *watchcache.Event) {
	if !w.inScope(e.Key) {
		return
	}
	before := w.matching(e.Prev)
	if e.Deleted {
		if before != nil {
			if f, err := e.Entry.As(w.r.kind); err == nil {
				w.pending = append(w.pending, watchEvent{kind: watch.Deleted, entry: f})
			}
		}
		return
	}
	now := w.matching(e.Entry)
	switch {
	case now != nil && before != nil:
		w.pending = append(w.pending, watchEvent{kind: watch.Modified, entry: now})
	case now != nil:
		w.pending = append(w.pending, watchEvent{kind: watch.Added, entry: now})
	case before != nil:
		if f, err := e.Left().As(w.r.kind); err == nil {
			w.pending = append(w.pending, watchEvent{kind: watch.Deleted, entry: f})
		}
	}
}

// resume reads on from the store's history until there are events or the cursor can take over.
func (w *watchStream) resume(ctx context.Context) error {
	for w.resumption != nil && len(w.pending) == 0 {
		events, cursor, err := w.resumption.Next(ctx)
		switch {
		case errors.Is(err, watchcache.ErrGone):
			w.ended = true
			status := apierrors.NewResourceExpired("The resourceVersion for the provided watch is too old.").Status()
			w.pending = []watchEvent{{kind: watch.Error, status: &status}}
			return nil
		case err != nil:
			return err
		}
		for _, e := range events {
			w.convert(e)
		}
		if cursor != nil {
			w.resumption.Close()
			w.cursor, w.resumption = cursor, nil
		}
	}
	return nil
}

// poll returns the events there are without waiting for more, and a channel that is closed when there may be more.
func (w *watchStream) poll(ctx context.Context) ([]watchEvent, <-chan struct{}, error) {
	for {
		if err := w.resume(ctx); err != nil {
			return nil, nil, err
		}
		if len(w.pending) > 0 {
			out := w.pending
			w.pending = nil
			return out, nil, nil
		}
		events, changed, err := w.cursor.Poll()
		if errors.Is(err, watchcache.ErrClosed) {
			w.over = true
			return nil, nil, nil
		}
		if err != nil { // slower than the history in memory: that of the store is longer
			if w.resumption, err = w.r.cache.Resume(ctx, w.cursor.Revision()); err == nil {
				continue
			}
			w.resumption, w.ended = nil, true
			status := tooOld(w.cursor.Revision(), w.r.cache.Oldest()).(*apierrors.StatusError).Status()
			return []watchEvent{{kind: watch.Error, status: &status}}, nil, nil
		}
		for _, e := range events {
			w.convert(e)
		}
		if len(events) == 0 {
			return nil, changed, nil
		}
	}
}

// next blocks for the next events; io.EOF ends the watch.
func (w *watchStream) next(ctx context.Context) ([]watchEvent, error) {
	if w.ended {
		return nil, io.EOF
	}
	var tick, last <-chan time.Time
	if w.ticker != nil {
		tick = w.ticker.C
	}
	if w.last != nil {
		last = w.last.C
	}
	for {
		events, changed, err := w.poll(ctx)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			return events, nil
		}
		if w.over {
			return nil, io.EOF
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.stopped:
			turn := w.r.server.farewells.turn(w.r.server.cfg.Shutdown.WatchGrace)
			if turn == 0 {
				return nil, io.EOF
			}
			w.stopped = nil
			w.deadline.Reset(turn)
		case <-w.closed:
			return nil, io.EOF
		case <-w.deadline.C:
			return nil, io.EOF
		case <-changed:
			continue
		case <-tick:
		case <-last:
		}
		if revision := w.cursor.Revision(); revision > w.sent {
			return []watchEvent{w.bookmarkAt(revision, false)}, nil
		}
	}
}

func (w *watchStream) close() {
	w.r.server.watchers.add(w.of, -1)
	if w.resumption != nil {
		w.resumption.Close()
	}
	w.deadline.Stop()
	if w.ticker != nil {
		w.ticker.Stop()
	}
	if w.last != nil {
		w.last.Stop()
	}
}

// localStream is a watchStream as a call.Stream.
type localStream struct {
	w       *watchStream
	pending []watchEvent
	once    sync.Once
	closed  chan struct{}
}

func newLocalStream(w *watchStream) *localStream {
	l := &localStream{w: w, closed: make(chan struct{})}
	w.closed = l.closed
	return l
}

// Next implements call.Stream.
func (l *localStream) Next(ctx context.Context) (watch.Event, error) {
	if len(l.pending) == 0 {
		events, err := l.w.next(ctx)
		if err != nil {
			return watch.Event{}, err
		}
		l.pending = events
	}
	e := l.pending[0]
	l.pending = l.pending[1:]
	if e.status != nil {
		return watch.Event{Type: e.kind, Object: e.status}, nil
	}
	return watch.Event{Type: e.kind, Object: e.entry.Object}, nil
}

// Close implements call.Stream.
func (l *localStream) Close() {
	l.once.Do(func() {
		close(l.closed)
		l.w.close()
	})
}
