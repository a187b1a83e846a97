// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"sort"
)

// batch bounds what one Next returns.
const batch = 256

// Watcher is a cursor in the history. It is for one goroutine.
type Watcher struct {
	cache    *Cache
	next     uint64
	epoch    uint64
	revision int64
}

// Watch returns a watcher of all changes after a revision, which must be in the history or newer than all of it.
func (c *Cache) Watch(after int64) (*Watcher, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if after < c.oldest {
		return nil, fmt.Errorf("watch %s after revision %d: %w", c.prefix, after, ErrGone)
	}
	i := sort.Search(len(c.history), func(i int) bool { return c.history[i].Revision > after })
	return &Watcher{cache: c, next: c.first + uint64(i), epoch: c.epoch, revision: after}, nil
}

// Oldest is the revision after which the history is complete.
func (c *Cache) Oldest() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.oldest
}

// Poll returns the next events, if there are any, and a channel that is closed when there may be more. It fails with
// ErrGone when the watcher fell behind the history or the cache started afresh, and with ErrClosed.
func (w *Watcher) Poll() ([]*Event, <-chan struct{}, error) {
	c := w.cache
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.isClosed() {
		return nil, nil, ErrClosed
	}
	if w.epoch != c.epoch || w.next < c.first {
		return nil, nil, fmt.Errorf("watch %s at revision %d: %w", c.prefix, w.revision, ErrGone)
	}
	var events []*Event
	for ; w.next < c.first+uint64(len(c.history)) && len(events) < batch; w.next++ {
		if e := c.history[w.next-c.first]; e.Revision > w.revision {
			events = append(events, e)
		}
	}
	if n := len(events); n > 0 {
		w.revision = events[n-1].Revision
	}
	if newest := c.newest.Load(); newest != nil && w.next == c.first+uint64(len(c.history)) {
		w.revision = max(w.revision, newest.Revision)
	}
	return events, c.changed, nil
}

// Next blocks for the next events.
func (w *Watcher) Next(ctx context.Context) ([]*Event, error) {
	for {
		events, changed, err := w.Poll()
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// Revision is the revision up to which all events have been returned.
func (w *Watcher) Revision() int64 { return w.revision }
