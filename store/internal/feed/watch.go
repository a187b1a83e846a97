// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"fmt"
	"sync"

	"knarr.dev/store"
)

// Watch is one store.Watcher: a cursor.
type Watch struct {
	feed   *Feed
	prefix string
	group  *group
	done   chan struct{} // closed by Close
	once   sync.Once

	// Guarded by feed.mu. Every matching event up to position was returned.
	position int64
	taken    chan struct{} // closed when position grows; nil while nobody waits
}

// Watch starts a watch after a revision.
func (f *Feed) Watch(prefix string, after int64) (*Watch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, store.ErrClosed
	}
	g := f.groups[prefix]
	if g == nil {
		g = &group{last: f.newest, dropped: f.from} // it is not known what was before
		f.groups[prefix] = g
		f.measure()
	}
	g.watches++
	return &Watch{feed: f, prefix: prefix, group: g, done: make(chan struct{}), position: after}, nil
}

// Close implements store.Watcher.
func (w *Watch) Close() {
	w.once.Do(func() {
		close(w.done)
		f := w.feed
		f.mu.Lock()
		defer f.mu.Unlock()
		if w.group.watches--; w.group.watches > 0 {
			return
		}
		delete(f.groups, w.prefix)
		f.measure()
	})
}

// Next implements store.Watcher.
func (w *Watch) Next(ctx context.Context) ([]store.Event, error) {
	for {
		select {
		case <-w.done:
			return nil, store.ErrClosed
		default:
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		step := w.take()
		switch {
		case step.closed:
			return nil, store.ErrClosed
		case len(step.events) > 0:
			return step.events, nil
		case step.behind:
			events, err := w.past(ctx, step.after, step.to)
			if err != nil || len(events) > 0 {
				return events, err
			}
			continue
		}
		select {
		case <-step.changed:
		case <-w.done:
			return nil, store.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// step is what Next has to do: return events, read history after one revision up to another, or wait.
type step struct {
	events    []store.Event
	closed    bool
	behind    bool
	after, to int64
	changed   chan struct{}
}

func (w *Watch) take() step {
	f := w.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return step{closed: true}
	case w.position < w.group.dropped:
		return step{behind: true, after: w.position, to: f.newest}
	case w.position < w.group.last:
		events, reached := f.since(w.prefix, w.position)
		w.reach(reached)
		if len(events) > 0 {
			return step{events: events}
		}
	}
	return step{changed: waiting(&w.group.changed)}
}

// reach moves the cursor; feed.mu is held.
func (w *Watch) reach(revision int64) {
	if revision > w.position {
		w.position = revision
		wake(&w.taken)
	}
}

// past reads events from the backend's history, which not too many watches do at once.
func (w *Watch) past(ctx context.Context, after, to int64) ([]store.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	f := w.feed
	select {
	case f.history <- struct{}{}:
		defer func() { <-f.history }()
	case <-w.done:
		return nil, store.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	events, reached, err := f.config.Past(ctx, w.prefix, after, to)
	select {
	case <-w.done:
		return nil, store.ErrClosed
	default:
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", w.prefix, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.reach(reached)
	return events, nil
}

// Progress implements store.Watcher.
func (w *Watch) Progress(ctx context.Context) (int64, error) {
	f := w.feed
	target, err := f.config.Current(ctx)
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", w.prefix, err)
	}
	for {
		f.mu.Lock()
		// What is after position and not after last is yet to be taken.
		if f.closed || w.position >= min(target, w.group.last) {
			closed := f.closed
			f.mu.Unlock()
			if closed {
				return 0, store.ErrClosed
			}
			return target, nil
		}
		taken := waiting(&w.taken)
		f.mu.Unlock()
		select {
		case <-taken:
		case <-w.done:
			return 0, store.ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
