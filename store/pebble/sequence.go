// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// housekeepEvery is how often expired keys are deleted and old history is dropped.
const housekeepEvery = time.Second

// sequence is the only writer: it takes writes in batches until the store is closed.
func (s *Store) sequence() {
	defer close(s.done)
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		var batch []*write
		select {
		case w := <-s.writes:
			batch = s.gather(w)
		case <-tick.C:
			batch = s.expired()
			s.forgetOld()
			if len(batch) == 0 {
				continue
			}
		case <-s.stop:
			s.refuseWaiting()
			return
		}
		s.commit(batch)
	}
}

func (s *Store) refuseWaiting() {
	for {
		select {
		case w := <-s.writes:
			w.answer <- answer{err: fmt.Errorf("write %s: %w", w.op.Key, store.ErrClosed)}
		default:
			return
		}
	}
}

// gather takes what else waits, up to the limits of a batch.
func (s *Store) gather(first *write) []*write {
	batch := []*write{first}
	size := len(first.op.Value)
	for len(batch) < maxBatchOps && size < maxBatchBytes {
		select {
		case w := <-s.writes:
			batch = append(batch, w)
			size += len(w.op.Value)
		default:
			return batch
		}
	}
	return batch
}

// commit checks, stores, publishes and acknowledges a batch.
func (s *Store) commit(batch []*write) {
	b := s.db.NewBatch()
	defer b.Close()
	pending := make(map[string]*version, len(batch))
	records := make(map[string]store.Record, len(batch))
	revision := s.revision.Load()
	events := make([]store.Event, 0, len(batch))
	// Nobody hears anything before the batch is durable and can be read: a refusal tells of writes of the same batch.
	answers := make([]answer, len(batch))
	now := s.options.Now()
	for i, w := range batch {
		current, err := s.current(w.op.Key, pending)
		if err == nil {
			err = condition(&w.op, current)
		}
		if err == nil && w.op.Value == nil && !exists(current) {
			answers[i] = answer{record: store.Record{Key: w.op.Key}} // nothing to delete
			continue
		}
		if err != nil {
			answers[i] = answer{record: recordOf(w.op.Key, current), err: err}
			continue
		}
		revision++
		next := following(&w.op, current, revision, now)
		if err := put(b, w.op.Key, next, current); err != nil {
			answers[i] = answer{err: fmt.Errorf("write %s: %w", w.op.Key, err)}
			revision--
			continue
		}
		e := store.Event{Record: recordOf(w.op.Key, next), Deleted: next.deleted}
		e.Modified, e.Attachment = revision, w.op.Attachment
		if exists(current) {
			prev, known := records[w.op.Key]
			if !known {
				prev = recordOf(w.op.Key, current)
			}
			e.Prev = &prev
		}
		pending[w.op.Key], records[w.op.Key] = next, e.Record
		events = append(events, e)
		answers[i] = answer{record: e.Record}
	}
	if len(events) > 0 {
		s.publish(b, events, revision, now)
	}
	for i, w := range batch {
		w.answer <- answers[i]
	}
}

// publish makes a batch durable and shows it to readers and watches.
func (s *Store) publish(b *pebble.Batch, events []store.Event, revision int64, now time.Time) {
	if err := b.Commit(pebble.Sync); err != nil {
		// Whether the batch is on disk is open; going on could give its revisions to other writes.
		panic(fmt.Sprintf("store: commit of revisions up to %d: %v", revision, err))
	}
	s.feed.Publish(events, revision)
	s.revision.Store(revision)
	if n := len(s.marks); n == 0 || now.Sub(s.marks[n-1].at) >= housekeepEvery {
		s.marks = append(s.marks, mark{now, revision})
	}
}

func exists(v *version) bool { return v != nil && !v.deleted }

// current is the newest version of a key, nil if it never was, with what the batch does before.
func (s *Store) current(key string, pending map[string]*version) (*version, error) {
	if v := pending[key]; v != nil {
		return v, nil
	}
	v, err := newest(s.db, key, 0)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return v, nil
}

func condition(op *store.Op, current *version) error {
	have := store.Absent
	if exists(current) {
		have = current.revision
	}
	if op.Expect == store.Any || op.Expect == have {
		return nil
	}
	return fmt.Errorf("write %s: expected revision %d, have %d: %w", op.Key, op.Expect, have, store.ErrConflict)
}

// following is the version that op makes of current.
func following(op *store.Op, current *version, revision int64, now time.Time) *version {
	next := &version{revision: revision, created: revision, value: op.Value, deleted: op.Value == nil}
	if exists(current) {
		next.created, next.previous = current.created, current.revision
	}
	if !next.deleted {
		next.expires = expiry(now, op.TTL)
	}
	return next
}

// put adds a version to a batch; the expiry of the one that it replaces goes.
func put(b *pebble.Batch, key string, v, replaced *version) error {
	err := errors.Join(b.Set(versionKey(key, v.revision), appendVersion(nil, v), nil), b.Set(logKey(v.revision), []byte(key), nil))
	if v.expires != 0 {
		err = errors.Join(err, b.Set(expiryKey(v.expires, v.revision), []byte(key), nil))
	}
	if replaced != nil && replaced.expires != 0 {
		err = errors.Join(err, b.Delete(expiryKey(replaced.expires, replaced.revision), nil))
	}
	return err
}

func recordOf(key string, v *version) store.Record {
	if v == nil {
		return store.Record{Key: key}
	}
	if v.deleted {
		return store.Record{Key: key, Modified: v.revision}
	}
	return store.Record{Key: key, Value: v.value, Created: v.created, Modified: v.revision, Expires: v.expires}
}

// expired returns deletions of keys whose time is over. The row of a version goes with the version, so none is stale.
func (s *Store) expired() []*write {
	now := s.options.Now().Unix()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableExpiry}, UpperBound: expiryKey(now+1, 0)})
	if err != nil {
		s.options.Log.Error("read expiry table", "error", err)
		return nil
	}
	defer it.Close()
	var batch []*write
	for it.First(); it.Valid() && len(batch) < maxBatchOps; it.Next() {
		if len(it.Key()) != 17 {
			continue
		}
		revision := int64(binary.BigEndian.Uint64(it.Key()[9:]))
		batch = append(batch, &write{op: store.Op{Key: string(it.Value()), Expect: revision}, answer: make(chan answer, 1)})
	}
	if err := it.Error(); err != nil {
		s.options.Log.Error("read expiry table", "error", err)
	}
	return batch
}

// forgetOld compacts history beyond the window.
func (s *Store) forgetOld() {
	limit := s.options.Now().Add(-s.options.HistoryWindow)
	var target int64
	for len(s.marks) > 0 && s.marks[0].at.Before(limit) {
		target = s.marks[0].revision
		s.marks = s.marks[1:]
	}
	if target > s.compacted.Load() {
		if err := s.compact(target); err != nil {
			s.options.Log.Error("forget old history", "error", err)
		}
	}
}
