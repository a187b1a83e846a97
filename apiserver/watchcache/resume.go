// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"knarr.dev/store"
)

// maxResumed bounds the events that a watcher from before the cache's history is caught up with.
const maxResumed = historyMax

// Resume returns a watcher of all changes after a revision that the cache's history does not reach but the store's does,
// as after a restart, with the events that the watcher itself will not return. Older revisions fail with ErrGone.
func (c *Cache) Resume(ctx context.Context, after int64) (*Watcher, []*Event, error) {
	gone := func(err error) (*Watcher, []*Event, error) {
		return nil, nil, fmt.Errorf("watch %s after revision %d: %w (%w)", c.prefix, after, ErrGone, err)
	}
	from, err := c.cfg.Store.Watch(ctx, c.prefix, after)
	if errors.Is(err, store.ErrCompacted) {
		return gone(err)
	}
	if err != nil {
		return nil, nil, err
	}
	defer from.Close()
	events, reached, err := past(ctx, from)
	if errors.Is(err, store.ErrCompacted) || errors.Is(err, errTooMany) {
		return gone(err)
	}
	if err != nil {
		return nil, nil, err
	}
	out := make([]*Event, 0, len(events))
	for i := range events {
		e, err := c.event(&events[i])
		if err != nil {
			return gone(err)
		}
		out = append(out, e)
		reached = max(reached, e.Revision)
	}
	w, err := c.Watch(reached)
	return w, out, err
}

var errTooMany = errors.New("too many changes since")

// past takes all events that a watch of the store has up to now.
func past(ctx context.Context, w store.Watcher) (events []store.Event, reached int64, err error) {
	taking, done := context.WithCancel(ctx)
	defer done()
	var wg sync.WaitGroup
	var progressErr error
	wg.Go(func() {
		defer done() // ends the wait for more
		reached, progressErr = w.Progress(taking)
	})
	for err == nil && len(events) <= maxResumed {
		var some []store.Event
		some, err = w.Next(taking)
		events = append(events, some...)
	}
	tooMany := err == nil
	done()
	wg.Wait()
	switch {
	case tooMany:
		return nil, 0, errTooMany
	case progressErr != nil:
		return nil, 0, errors.Join(err, progressErr)
	case ctx.Err() != nil:
		return nil, 0, ctx.Err()
	}
	return events, reached, nil
}

// event makes an event of the store's, which must know what was before.
func (c *Cache) event(e *store.Event) (*Event, error) {
	out := &Event{Key: e.Key, Revision: e.Modified, Deleted: e.Deleted}
	if e.Prev != nil {
		prev, err := c.decoded(e.Prev)
		if err != nil {
			return nil, err
		}
		out.Prev = prev
	} else if e.Deleted || e.Created != e.Modified {
		return nil, store.ErrCompacted
	}
	if e.Deleted {
		out.Entry = out.Prev.at(e.Modified)
		return out, nil
	}
	entry, err := c.decoded(&e.Record)
	out.Entry = entry
	return out, err
}

// decoded makes an entry of a record's value.
func (c *Cache) decoded(r *store.Record) (*Entry, error) {
	plain := *r
	plain.Attachment = nil
	e, err := c.entry(&plain)
	if err != nil {
		return nil, fmt.Errorf("revision %s: %w", strconv.FormatInt(r.Modified, 10), err)
	}
	return e, nil
}
