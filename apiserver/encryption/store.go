// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"context"
	"strings"

	"knarr.dev/store"
)

// Store is a store whose values are encrypted in another one.
type Store struct {
	store.Store
	config       *Config
	base, prefix string
}

// Wrap returns a store in front of s.
func Wrap(s store.Store, config *Config) *Store { return &Store{Store: s, config: config} }

// Stored says that keys of s which begin with base begin with prefix where they are stored in the end: there, values are bound to their
// keys.
func (s *Store) Stored(base, prefix string) *Store {
	s.base, s.prefix = base, prefix
	return s
}

// bound is what the value of a key is bound to.
func (s *Store) bound(key string) string {
	if rest, ok := strings.CutPrefix(key, s.base); ok {
		return s.prefix + rest
	}
	return key
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, q store.Query) (store.Page, error) {
	page, err := s.Store.Read(ctx, q)
	if err != nil {
		return page, err
	}
	for i := range page.Records {
		if err := s.open(ctx, &page.Records[i]); err != nil {
			return store.Page{}, err
		}
	}
	return page, nil
}

// open decrypts a record in place.
func (s *Store) open(ctx context.Context, r *store.Record) error {
	t := s.config.transformer(r.Key)
	if t == nil || r.Value == nil {
		return nil
	}
	plain, _, err := t.decrypt(ctx, r.Value, s.bound(r.Key))
	if err == nil {
		r.Value = plain
	}
	return err
}

// Write implements store.Store.
func (s *Store) Write(ctx context.Context, op store.Op) (store.Record, error) {
	t := s.config.transformer(op.Key)
	if t == nil {
		return s.Store.Write(ctx, op)
	}
	plain := op.Value
	if plain != nil {
		var err error
		if op.Value, err = t.encrypt(ctx, plain, s.bound(op.Key)); err != nil {
			return store.Record{}, err
		}
	}
	r, err := s.Store.Write(ctx, op)
	switch {
	case err == nil && plain != nil && op.End == nil:
		r.Value = plain
	case r.Value != nil: // the current one, of a conflict or a deletion
		if problem := s.open(ctx, &r); err == nil {
			err = problem
		}
	}
	return r, err
}

// Stale says whether a record should be written again, because its value is not as the configuration writes it now.
func (s *Store) Stale(ctx context.Context, key string) (bool, error) {
	t := s.config.transformer(key)
	if t == nil {
		return false, nil
	}
	page, err := s.Store.Read(ctx, store.Query{Key: key})
	if err != nil || len(page.Records) == 0 {
		return false, err
	}
	_, stale, err := t.decrypt(ctx, page.Records[0].Value, s.bound(key))
	return stale, err
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) (store.Watcher, error) {
	w, err := s.Store.Watch(ctx, prefix, after)
	if err != nil {
		return nil, err
	}
	return &watcher{Watcher: w, store: s}, nil
}

type watcher struct {
	store.Watcher
	store *Store
}

// Next implements store.Watcher. A value that cannot be decrypted comes as it is: whoever decodes it says so.
func (w *watcher) Next(ctx context.Context) ([]store.Event, error) {
	events, err := w.Watcher.Next(ctx)
	if err != nil || len(events) == 0 || w.store.config.transformer(events[0].Key) == nil {
		return events, err
	}
	opened := make([]store.Event, len(events)) // the store's own are shared
	copy(opened, events)
	for i := range opened {
		e := &opened[i]
		_ = w.store.open(ctx, &e.Record)
		if e.Prev != nil {
			prev := *e.Prev
			_ = w.store.open(ctx, &prev)
			e.Prev = &prev
		}
	}
	return opened, nil
}
