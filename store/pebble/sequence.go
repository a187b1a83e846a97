// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// sequence takes the writes that wait in batches until the store is closed.
func (s *Store) sequence() {
	defer close(s.done)
	for {
		select {
		case w := <-s.writes:
			s.committing.Lock()
			s.commit(s.gather(w))
			s.committing.Unlock()
		case <-s.stop:
			s.refuseWaiting()
			return
		}
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

// direct has the writer commit itself, if nobody else writes: that saves two changes of goroutine, a tenth of the time that a
// single client waits. With many writers, those that come after a batch shall share the next.
func (s *Store) direct(w *write) bool {
	if !s.alone.Load() || len(s.writes) > 0 || !s.committing.TryLock() {
		return false
	}
	defer s.committing.Unlock()
	if s.stopped() {
		return false
	}
	defer func() {
		// Whoever called Write may recover from panics; a store whose commit failed must not go on, as it does not in the sequencer.
		if p := recover(); p != nil {
			failure := fmt.Sprintf("%v\n%s", p, debug.Stack())
			go func() { panic(failure) }()
			select {}
		}
	}()
	s.commit(s.gather(w))
	return true
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
	before := s.revision.Load()
	events := make([]store.Event, 0, len(batch))
	// Nobody hears anything before the batch is durable and can be read: a refusal tells of writes of the same batch.
	answers := make([]answer, len(batch))
	now := s.options.Now()
	for i, w := range batch {
		current, err := s.slot(w.op.Key)
		if err == nil {
			err = condition(&w.op, current)
		}
		if err == nil && w.op.Value == nil && current.revision == 0 {
			answers[i].record.Key = w.op.Key // nothing to delete
			continue
		}
		if err != nil {
			answers[i] = s.refusal(w.op.Key, current, events, before, err)
			continue
		}
		n := len(events)
		if events, err = s.stage(b, &w.op, current, before, now, events); err != nil {
			answers[i].err = fmt.Errorf("write %s: %w", w.op.Key, err)
		} else if w.op.End != nil && w.op.Value != nil {
			end := store.Op{Key: w.op.Key, Attachment: w.op.End.Attachment}
			if events, err = s.stage(b, &end, s.index.slots[w.op.Key], before, now, events); err != nil {
				// What was staged of the write can't be taken back from the batch.
				panic(fmt.Sprintf("store: stage the end of %s: %v", w.op.Key, err))
			}
		}
		if len(events) > n {
			answers[i].record = events[len(events)-1].Record
			answers[i].record.Attachment = nil
		}
	}
	if len(events) > 0 {
		s.publish(b, events, before+int64(len(events)), now)
	}
	s.alone.Store(len(batch) == 1)
	for i, w := range batch {
		w.answer <- answers[i]
	}
}

// stage adds a write whose condition holds to a batch, the index and the events; the revisions of the batch begin after before.
func (s *Store) stage(b *pebble.Batch, op *store.Op, current slot, before int64, now time.Time, events []store.Event) ([]store.Event, error) {
	next := following(op, current, before+int64(len(events))+1, now)
	if err := put(b, op.Key, &next, current); err != nil {
		return events, err
	}
	s.index.set(op.Key, &next)
	e := store.Event{Record: recordOf(op.Key, &next), Deleted: next.deleted, Size: len(next.value)}
	e.Attachment = op.Attachment
	return append(events, e), nil
}

// refusal is the answer to a write whose condition does not hold, with the record that it met: of an event of the same batch, whose
// revisions begin after one, or stored.
func (s *Store) refusal(key string, current slot, events []store.Event, before int64, reason error) answer {
	switch {
	case current.revision == 0:
		return answer{record: store.Record{Key: key}, err: reason}
	case current.revision > before:
		r := events[current.revision-before-1].Record
		r.Value = bytes.Clone(r.Value) // whose writer may use its memory again before this one has read it
		r.Attachment = nil
		return answer{record: r, err: reason}
	}
	v, err := s.version(key, current.revision)
	if err != nil {
		return answer{err: fmt.Errorf("read %s: %w", key, err)}
	}
	return answer{record: recordOf(key, v), err: reason}
}

// publish makes a batch durable and shows it to readers and watches.
func (s *Store) publish(b *pebble.Batch, events []store.Event, revision int64, now time.Time) {
	if err := b.Commit(pebble.Sync); err != nil {
		// Whether the batch is on disk is open; going on could give its revisions to other writes.
		panic(fmt.Sprintf("store: commit of revisions up to %d: %v", revision, err))
	}
	for i := range events {
		if e := &events[i]; e.Attachment != nil {
			e.Value = nil // which the writer may use again
		}
	}
	s.feed.Publish(events, revision)
	s.revision.Store(revision)
	s.written.Store(now.Unix())
	if !s.feeding.Load() {
		s.feeding.Store(true)
		s.bringForward(now.Add(feedRest).Unix())
	}
	s.mark(now, revision)
	for i := range events {
		if e := events[i].Expires; e != 0 {
			s.bringForward(e)
		}
	}
}

func exists(v *version) bool { return v != nil && !v.deleted }

func condition(op *store.Op, current slot) error {
	if op.Expect == store.Any || op.Expect == current.revision {
		return nil
	}
	return fmt.Errorf("write %s: expected revision %d, have %d: %w", op.Key, op.Expect, current.revision, store.ErrConflict)
}

// following is the version that op makes of what is there.
func following(op *store.Op, current slot, revision int64, now time.Time) version {
	next := version{revision: revision, created: revision, value: op.Value, deleted: op.Value == nil}
	if current.revision != 0 {
		next.created, next.previous = current.created, current.revision
	}
	if !next.deleted {
		next.expires = expiry(now, op.TTL)
	}
	return next
}

// put adds a version to a batch; the expiry of the one that it replaces goes.
func put(b *pebble.Batch, key string, v *version, replaced slot) error {
	var space [maxHeader]byte
	header := appendHeader(space[:0], v)
	row := b.SetDeferred(len(key)+versionKeyExtra, len(header)+len(v.value))
	appendVersionKey(row.Key[:0], key, v.revision)
	copy(row.Value[copy(row.Value, header):], v.value)
	err := row.Finish()
	var short [128]byte
	entry := appendChange(short[:0], key, v)
	log := b.SetDeferred(9, len(entry))
	appendLogKey(log.Key[:0], v.revision)
	copy(log.Value, entry)
	err = errors.Join(err, log.Finish())
	if v.expires != 0 {
		err = errors.Join(err, b.Set(expiryKey(v.expires, v.revision), []byte(key), nil))
	}
	if replaced.expires != 0 {
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
