// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package feed is what the backends of the store share: the newest events in memory, and watches as cursors in them.
//
// A backend publishes events in order. A watch holds no events, only the revision up to which it returned everything, so
// that ten thousand watches cost no copies and a slow one costs nothing; one that falls behind the events in memory
// reads on from the backend's history, and joins again. Publish never waits for a reader. Events are found by the prefix
// of their key; the cost of publishing grows with the number of different lengths of prefixes, not of watches.
//
// Start with New, then Publish and Watch.
package feed

import (
	"context"
	"slices"
	"sync"

	"knarr.dev/store"
)

// Limits of a feed.
const (
	maxEvents  = 2048    // in memory
	maxBytes   = 4 << 20 // of their values
	maxTaken   = 512     // returned by one call of Next, beyond which only the rest of a revision goes
	maxHistory = 8       // watches that read history at once
)

// Config says what a feed asks of its backend.
type Config struct {
	// Revision is the newest when the feed starts.
	Revision int64
	// Past returns, in order, events of keys with a prefix after one revision: all up to another or the first of them, whole
	// revisions in any case; and the revision up to which they are complete.
	Past func(ctx context.Context, prefix string, after, to int64) (events []store.Event, reached int64, err error)
	// Current returns a revision that is at least the store's newest at the time of the call and that was published.
	Current func(ctx context.Context) (int64, error)
}

// Feed is a stream of events and its readers.
type Feed struct {
	config  Config
	history chan struct{} // holds a token for each watch that reads history

	mu     sync.Mutex
	events []store.Event // every event with a revision greater than from
	from   int64
	size   int
	newest int64
	rested int64 // newest at the last Rest
	groups map[string]*group
	// lengths are those of the groups' prefixes, each once.
	lengths []int
	moved   chan struct{} // closed when newest grows; nil while nobody waits
	closed  bool
}

// group is what the watches of one prefix share; Feed.mu guards it.
type group struct {
	// last is the newest revision with a matching event; dropped is one up to which matching events left the memory.
	last, dropped int64
	changed       chan struct{} // closed when last grows or the feed ends; nil while nobody waits
	watches       int
}

// New returns a feed without events.
func New(c Config) *Feed {
	return &Feed{
		config: c, history: make(chan struct{}, maxHistory), from: c.Revision, newest: c.Revision,
		groups: map[string]*group{},
	}
}

// Newest is the revision up to which everything was published.
func (f *Feed) Newest() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest
}

// Publish appends events, all there are up to revision.
func (f *Feed) Publish(events []store.Event, revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.events = append(f.events, events...)
	for i := range events {
		e := &events[i]
		f.size += max(e.Size, len(e.Value))
		revision = max(revision, e.Modified)
		f.matching(e.Key, func(g *group) {
			g.last = e.Modified
			wake(&g.changed)
		})
	}
	f.trim(maxEvents)
	f.advance(revision)
}

// Reset says that events up to revision may be missing: watches must read them from history.
func (f *Feed) Reset(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events, f.size, f.from = nil, 0, revision
	for _, g := range f.groups {
		g.last, g.dropped = revision, revision
		wake(&g.changed)
	}
	f.advance(revision)
}

// Close ends all watches.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.events = true, nil
	for _, g := range f.groups {
		wake(&g.changed)
	}
	wake(&f.moved)
}

// Wait blocks until everything up to a revision was published.
func (f *Feed) Wait(ctx context.Context, revision int64) error {
	for {
		f.mu.Lock()
		if f.newest >= revision {
			f.mu.Unlock()
			return nil
		}
		if f.closed {
			f.mu.Unlock()
			return store.ErrClosed
		}
		moved := waiting(&f.moved)
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Feed) advance(revision int64) {
	if revision > f.newest {
		f.newest = revision
		wake(&f.moved)
	}
}

// matching calls each for the groups whose prefix a key has.
func (f *Feed) matching(key string, each func(*group)) {
	for _, n := range f.lengths {
		if n <= len(key) {
			if g := f.groups[key[:n]]; g != nil {
				each(g)
			}
		}
	}
}

// measure finds the lengths of prefixes, after groups came or went.
func (f *Feed) measure() {
	f.lengths = f.lengths[:0]
	for prefix := range f.groups {
		if !slices.Contains(f.lengths, len(prefix)) {
			f.lengths = append(f.lengths, len(prefix))
		}
	}
}

// Rest forgets the events in memory that came before the previous call, and says whether there are any left. Watches that have
// not returned them yet read them from history.
func (f *Feed) Rest() (left bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	later, _ := f.position(f.rested)
	f.rested = f.newest
	f.trim(len(f.events) - later)
	if len(f.events) == 0 {
		f.events = nil
	}
	return len(f.events) > 0
}

// position is the index of the first event after a revision.
func (f *Feed) position(after int64) (int, bool) {
	return slices.BinarySearchFunc(f.events, after+1, func(e store.Event, revision int64) int {
		return int(e.Modified - revision)
	})
}

// trim drops the oldest events, so that no more than some are left and they are within the limit of their size.
func (f *Feed) trim(most int) {
	drop := 0
	for drop < len(f.events) && (len(f.events)-drop > most || f.size > maxBytes) {
		e := &f.events[drop]
		f.size -= max(e.Size, len(e.Value))
		f.from = e.Modified
		f.matching(e.Key, func(g *group) { g.dropped = max(g.dropped, e.Modified) })
		drop++
	}
	if drop > 0 {
		clear(f.events[:drop]) // let the values go; append moves the rest when the array is full
		f.events = f.events[drop:]
	}
}

// since returns events with a prefix after a revision that are in memory, and the revision up to which these are all.
func (f *Feed) since(prefix string, after int64) ([]store.Event, int64) {
	i, _ := f.position(after)
	var events []store.Event
	for ; i < len(f.events); i++ {
		e := &f.events[i]
		if len(e.Key) < len(prefix) || e.Key[:len(prefix)] != prefix {
			continue
		}
		if n := len(events); n >= maxTaken && events[n-1].Modified != e.Modified {
			return events, events[n-1].Modified
		}
		events = append(events, *e)
	}
	return events, f.newest
}

// wake closes a channel that somebody may wait for.
func wake(c *chan struct{}) {
	if *c != nil {
		close(*c)
		*c = nil
	}
}

// waiting returns the channel that the next wake closes.
func waiting(c *chan struct{}) chan struct{} {
	if *c == nil {
		*c = make(chan struct{})
	}
	return *c
}
