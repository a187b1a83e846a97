// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// catchUpEvents is how many events one read from history returns.
const catchUpEvents = 512

// Watch implements store.Store.
func (s *Store) Watch(_ context.Context, prefix string, after int64) (store.Watcher, error) {
	if after > 0 && after < s.compacted.Load() {
		return nil, fmt.Errorf("watch %s after %d: %w", prefix, after, store.ErrCompacted)
	}
	if after == 0 {
		after = s.feed.Newest()
	}
	w, err := s.feed.Watch(prefix, after)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", prefix, err)
	}
	return w, nil
}

// acknowledged is the newest revision; every event up to it was published.
func (s *Store) acknowledged(context.Context) (int64, error) { return s.revision.Load(), nil }

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
		c, err := decodeChange(it.Value())
		if err != nil {
			return nil, 0, err
		}
		if strings.HasPrefix(c.key, prefix) {
			e, err := s.event(c.key, revision)
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
	e := store.Event{Record: recordOf(key, v), Deleted: v.deleted, Size: len(v.value)}
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
