// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// slot is what a write must know of the newest version of its key. The zero slot is that of an absent key.
type slot struct {
	revision, created int64
	expires           int64 // Unix seconds; 0 never
}

// index holds the slots of all keys that exist, so that a write reads nothing from disk. It is filled beside the first writes
// after a start; until then keys that it lacks are looked up. Store.committing guards it.
type index struct {
	slots map[string]slot // until all are loaded, also zero slots of keys that are gone
	// loading delivers what was stored at the start; nil when that is in slots.
	loading chan map[string]slot
}

// slot returns the slot of a key.
func (s *Store) slot(key string) (slot, error) {
	if s.index.loading != nil {
		select {
		case stored := <-s.index.loading:
			s.index.merge(stored)
		default:
		}
	}
	have, known := s.index.slots[key]
	if known || s.index.loading == nil {
		return have, nil
	}
	v, err := newest(s.db, key, 0)
	if err != nil {
		return slot{}, fmt.Errorf("read %s: %w", key, err)
	}
	if exists(v) {
		have = slot{v.revision, v.created, v.expires}
	}
	s.index.slots[key] = have
	return have, nil
}

// set notes what a write made of its key.
func (x *index) set(key string, v *version) {
	switch {
	case !v.deleted:
		x.slots[key] = slot{v.revision, v.created, v.expires}
	case x.loading != nil:
		x.slots[key] = slot{}
	default:
		delete(x.slots, key)
	}
}

// merge takes over what was stored at the start, except for keys that were written since.
func (x *index) merge(stored map[string]slot) {
	for key, have := range x.slots {
		if have.revision == 0 {
			delete(stored, key)
		} else {
			stored[key] = have
		}
	}
	x.slots, x.loading = stored, nil
}

// load reads the slots of all keys that an iterator over the table of versions shows, and closes it. It gives up when the
// store is closed.
func (s *Store) load(it *pebble.Iterator, to chan<- map[string]slot) error {
	defer it.Close()
	slots := map[string]slot{}
	var done []byte // the key that was decided last, with the zero byte that ends it
	n := 0
	for valid := it.First(); valid; valid = it.Next() {
		if n++; n%1024 == 0 && s.stopped() {
			return nil
		}
		if len(done) > 0 && bytes.HasPrefix(it.Key(), done) && len(it.Key()) == len(done)+8 {
			continue // an older version
		}
		key, revision, err := splitVersionKey(it.Key())
		if err != nil {
			return err
		}
		done = append(done[:0], it.Key()[:len(it.Key())-8]...)
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		v, _, err := decodeHeader(value, revision)
		if err != nil {
			return fmt.Errorf("%s at %d: %w", key, revision, err)
		}
		if !v.deleted {
			slots[key] = slot{revision, v.created, v.expires}
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	to <- slots
	return nil
}
