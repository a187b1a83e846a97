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

// resumeBatch bounds the events of one step of a resumption.
const resumeBatch = 512

// Resumption catches a watcher up that starts at a revision which the cache's history does not reach but the store's does, as
// after a restart. It reads the store's history step by step, however long that is, until a cursor in the cache can go on.
// It is for one goroutine.
type Resumption struct {
	cache *Cache
	from  store.Watcher
	after int64
}

// Resume starts a resumption after a revision. Revisions that the store has forgotten fail with ErrGone.
func (c *Cache) Resume(ctx context.Context, after int64) (*Resumption, error) {
	from, err := c.cfg.Store.Watch(ctx, c.prefix, after)
	if errors.Is(err, store.ErrCompacted) {
		return nil, fmt.Errorf("watch %s after revision %d: %w (%w)", c.prefix, after, ErrGone, err)
	}
	if err != nil {
		return nil, err
	}
	return &Resumption{cache: c, from: from, after: after}, nil
}

// Close gives up what the resumption holds.
func (r *Resumption) Close() { r.from.Close() }

// Next returns the next events, in order, and a watcher for all that follow once it is caught up. ErrGone means that the store
// forgot meanwhile what was to come.
func (r *Resumption) Next(ctx context.Context) ([]*Event, *Watcher, error) {
	events, reached, err := past(ctx, r.from)
	if err != nil {
		if errors.Is(err, store.ErrCompacted) {
			err = fmt.Errorf("watch %s after revision %d: %w (%w)", r.cache.prefix, r.after, ErrGone, err)
		}
		return nil, nil, err
	}
	out := make([]*Event, 0, len(events))
	for i := range events {
		e, err := r.cache.event(ctx, &events[i])
		if err != nil {
			return nil, nil, fmt.Errorf("watch %s after revision %d: %w (%w)", r.cache.prefix, r.after, ErrGone, err)
		}
		out = append(out, e)
		r.after = e.Revision
	}
	r.after = max(r.after, reached)
	w, err := r.cache.Watch(r.after)
	if errors.Is(err, ErrGone) {
		return out, nil, nil // the cache is still ahead
	}
	return out, w, err
}

// past takes events of a watch of the store: a batch, or all up to now, in which case it returns the revision that is reached.
func past(ctx context.Context, w store.Watcher) (events []store.Event, reached int64, err error) {
	taking, done := context.WithCancel(ctx)
	defer done()
	var wg sync.WaitGroup
	var progressErr error
	wg.Go(func() {
		defer done() // ends the wait for more
		reached, progressErr = w.Progress(taking)
	})
	for err == nil && len(events) < resumeBatch {
		var some []store.Event
		some, err = w.Next(taking)
		events = append(events, some...)
	}
	full := err == nil
	done()
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, 0, ctx.Err()
	case full && progressErr != nil: // there is more
		return events, 0, nil
	case progressErr != nil:
		return nil, 0, errors.Join(err, progressErr)
	}
	return events, reached, nil
}

// event makes an event of the store's, which must know what was before.
func (c *Cache) event(ctx context.Context, e *store.Event) (*Event, error) {
	out := &Event{Key: e.Key, Revision: e.Modified, Deleted: e.Deleted}
	if e.Deleted || e.Created != e.Modified {
		before, err := c.before(ctx, e)
		if err != nil {
			return nil, err
		}
		if out.Prev, err = c.decoded(before); err != nil {
			return nil, err
		}
	}
	if e.Deleted {
		out.Entry = out.Prev.at(e.Modified)
		return out, nil
	}
	entry, err := c.decoded(&e.Record)
	out.Entry = entry
	return out, err
}

// before is the record that a change replaced.
func (c *Cache) before(ctx context.Context, e *store.Event) (*store.Record, error) {
	if e.Prev != nil {
		return e.Prev, nil
	}
	page, err := c.cfg.Store.Read(ctx, store.Query{Key: e.Key, Revision: e.Modified - 1})
	switch {
	case err != nil:
		return nil, err
	case len(page.Records) == 0:
		return nil, store.ErrCompacted
	}
	return &page.Records[0], nil
}

// decoded makes an entry of a record's value.
func (c *Cache) decoded(r *store.Record) (*Entry, error) {
	plain := *r
	if len(r.Value) > 0 {
		plain.Attachment = nil
	}
	e, err := c.entry(&plain)
	if err != nil {
		return nil, fmt.Errorf("revision %s: %w", strconv.FormatInt(r.Modified, 10), err)
	}
	return e, nil
}
