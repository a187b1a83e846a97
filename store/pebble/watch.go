// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// Limits of watches.
const (
	maxQueued     = 1024    // events that wait for one watcher; one that has more reads on from history
	maxRecent     = 2048    // newest events in memory, which spare watchers the disk
	maxRecentSize = 4 << 20 // bytes of their values
	catchUpEvents = 512     // events of one read from history
)

// watches are all watchers of a store and the newest events.
type watches struct {
	// compacting serialises compactions. Lock order: compacting, then mu.
	compacting sync.Mutex

	mu         sync.Mutex
	all        map[*watcher]struct{}
	recent     []store.Event // the newest events, without a gap
	recentFrom int64         // recent has every event with a greater revision
	recentSize int
	closed     bool
}

func (ws *watches) start(revision int64) {
	ws.all = map[*watcher]struct{}{}
	ws.recentFrom = revision
}

// publish hands events to the watchers. It never waits for one of them.
func (ws *watches) publish(events []store.Event) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.remember(events)
	for w := range ws.all {
		for i := range events {
			if strings.HasPrefix(events[i].Key, w.prefix) && events[i].Modified > w.after {
				w.offer(events[i])
			}
		}
		w.wake()
	}
}

func (ws *watches) remember(events []store.Event) {
	ws.recent = append(ws.recent, events...)
	for i := range events {
		ws.recentSize += len(events[i].Value)
	}
	drop := 0
	for drop < len(ws.recent) && (len(ws.recent)-drop > maxRecent || ws.recentSize > maxRecentSize) {
		ws.recentSize -= len(ws.recent[drop].Value)
		ws.recentFrom = ws.recent[drop].Modified
		drop++
	}
	if drop > 0 {
		clear(ws.recent[:drop]) // let the values go; append moves the rest when the array is full
		ws.recent = ws.recent[drop:]
	}
}

func (ws *watches) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	for w := range ws.all {
		w.end()
	}
	ws.all = nil
}

// watcher is one watch. Its fields are guarded by watches.mu, except those that never change.
type watcher struct {
	store  *Store
	prefix string
	after  int64
	done   chan struct{} // closed at the end
	ready  chan struct{} // holds a token when there may be something to do

	queue []store.Event
	// lagging: events after position, up to newest, are to be read from history; until then none is queued.
	lagging          bool
	position, newest int64
	taken            chan struct{} // closed and replaced whenever Next takes events or catches up
	ended            bool
}

// Watch implements store.Store.
func (s *Store) Watch(_ context.Context, prefix string, after int64) (store.Watcher, error) {
	ws := &s.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return nil, store.ErrClosed
	}
	newest := s.revision.Load()
	if n := len(ws.recent); n > 0 { // published, perhaps not yet counted
		newest = max(newest, ws.recent[n-1].Modified)
	}
	w := &watcher{
		store: s, prefix: prefix, after: after,
		done: make(chan struct{}), ready: make(chan struct{}, 1), taken: make(chan struct{}),
	}
	if after > 0 && after < s.compacted.Load() {
		return nil, fmt.Errorf("watch %s after %d: %w", prefix, after, store.ErrCompacted)
	}
	if after > 0 && after < newest {
		w.lagging, w.position, w.newest = true, after, newest
		w.wake()
	}
	ws.all[w] = struct{}{}
	return w, nil
}

// offer queues an event, or notes that it must be read from history.
func (w *watcher) offer(e store.Event) {
	switch {
	case w.lagging:
		w.newest = e.Modified
	case len(w.queue) >= maxQueued:
		w.lagging, w.position, w.newest = true, w.queue[len(w.queue)-1].Modified, e.Modified
	default:
		w.queue = append(w.queue, e)
	}
}

func (w *watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *watcher) end() {
	if !w.ended {
		w.ended = true
		close(w.done)
	}
}

// Close implements store.Watcher.
func (w *watcher) Close() {
	ws := &w.store.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
	w.end()
}

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) ([]store.Event, error) {
	for {
		select {
		case <-w.done:
			return nil, store.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
		}
		events, err := w.take(ctx)
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-w.ready:
		case <-w.done:
			return nil, store.ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what is queued, or else what history has.
func (w *watcher) take(ctx context.Context) ([]store.Event, error) {
	ws := &w.store.watches
	ws.mu.Lock()
	if len(w.queue) > 0 {
		events := w.queue
		w.queue = nil
		w.progress()
		ws.mu.Unlock()
		return events, nil
	}
	if !w.lagging {
		ws.mu.Unlock()
		return nil, nil
	}
	from, to := w.position, w.newest
	if from >= ws.recentFrom {
		events := w.fromRecent(from, to)
		w.lagging = false
		w.progress()
		ws.mu.Unlock()
		return events, nil
	}
	ws.mu.Unlock()
	events, reached, err := w.store.history(ctx, w.prefix, from, to)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", w.prefix, err)
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.position = reached
	if w.lagging = reached < w.newest; w.lagging {
		w.wake()
	}
	w.progress()
	return events, nil
}

func (w *watcher) fromRecent(from, to int64) []store.Event {
	recent := w.store.watches.recent
	i, _ := slices.BinarySearchFunc(recent, from+1, func(e store.Event, revision int64) int { return int(e.Modified - revision) })
	var events []store.Event
	for _, e := range recent[i:] {
		if e.Modified <= to && strings.HasPrefix(e.Key, w.prefix) {
			events = append(events, e)
		}
	}
	return events
}

// progress wakes those who wait in Progress.
func (w *watcher) progress() {
	close(w.taken)
	w.taken = make(chan struct{})
}

// Progress implements store.Watcher.
func (w *watcher) Progress(ctx context.Context) (int64, error) {
	target := w.store.revision.Load() // every event up to it has been offered
	ws := &w.store.watches
	for {
		ws.mu.Lock()
		behind := w.lagging && w.position < target || len(w.queue) > 0 && w.queue[0].Modified <= target
		taken := w.taken
		ws.mu.Unlock()
		if !behind {
			return target, nil
		}
		select {
		case <-taken:
		case <-w.done:
			return 0, store.ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// history reads the events of keys with a prefix after one revision, up to another, from disk; at most catchUpEvents.
// It returns the revision that it reached.
func (s *Store) history(ctx context.Context, prefix string, after, to int64) ([]store.Event, int64, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: logKey(after + 1), UpperBound: logKey(to + 1)})
	if err != nil {
		return nil, 0, err
	}
	defer it.Close()
	var events []store.Event
	n := 0
	for valid := it.First(); valid; valid = it.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		revision := int64(binary.BigEndian.Uint64(it.Key()[1:]))
		if strings.HasPrefix(string(it.Value()), prefix) {
			e, err := s.event(string(it.Value()), revision)
			if err != nil {
				return nil, 0, err
			}
			events = append(events, e)
		}
		if len(events) >= catchUpEvents {
			to = revision
			break
		}
	}
	if err := it.Error(); err != nil {
		return nil, 0, err
	}
	// As in Read: a mark that is not newer means that everything was there.
	if after < s.compacted.Load() {
		return nil, 0, fmt.Errorf("history after %d: %w", after, store.ErrCompacted)
	}
	return events, to, nil
}

// event rebuilds the event of one revision.
func (s *Store) event(key string, revision int64) (store.Event, error) {
	v, err := s.version(key, revision)
	if err != nil {
		return store.Event{}, err
	}
	e := store.Event{Record: recordOf(key, v), Deleted: v.deleted}
	e.Modified = revision
	if v.previous == 0 {
		return e, nil
	}
	prev, err := s.version(key, v.previous)
	if err == store.ErrCompacted {
		return e, nil // history no longer has it
	}
	if err != nil {
		return store.Event{}, err
	}
	r := recordOf(key, prev)
	e.Prev = &r
	return e, nil
}

func (s *Store) version(key string, revision int64) (*version, error) {
	b, closer, err := s.db.Get(versionKey(key, revision))
	if err == pebble.ErrNotFound {
		return nil, store.ErrCompacted
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	v, err := decodeVersion(b, revision)
	return &v, err
}
