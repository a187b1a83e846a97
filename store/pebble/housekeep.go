// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// housekeepEvery is how often expired keys are deleted and old history is dropped.
const housekeepEvery = time.Second

// housekeep deletes expired keys and old history until the store is closed. It runs beside the sequencer: no write waits for it.
func (s *Store) housekeep() {
	tick := time.NewTicker(housekeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.expire(s.expired())
			s.forgetOld()
		case <-s.stop:
			return
		}
	}
}

// expire has writes carried out. What becomes of them matters to nobody: a key that was written meanwhile stays.
func (s *Store) expire(writes []*write) {
	for _, w := range writes {
		select {
		case s.writes <- w:
		case <-s.stop:
			return
		}
	}
	for _, w := range writes {
		select {
		case <-w.answer:
		case <-s.done:
			return
		}
	}
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

// mark notes when a revision was given, now and then.
func (s *Store) mark(now time.Time, revision int64) {
	s.marking.Lock()
	defer s.marking.Unlock()
	if n := len(s.marks); n == 0 || now.Sub(s.marks[n-1].at) >= housekeepEvery {
		s.marks = append(s.marks, mark{now, revision})
	}
}

// before is the newest marked revision from before a time, whose mark goes with all older ones; 0 if there is none.
func (s *Store) before(limit time.Time) (revision int64) {
	s.marking.Lock()
	defer s.marking.Unlock()
	for len(s.marks) > 0 && s.marks[0].at.Before(limit) {
		revision = s.marks[0].revision
		s.marks = s.marks[1:]
	}
	return revision
}

// forgetOld compacts history beyond the window.
func (s *Store) forgetOld() {
	target := s.before(s.options.Now().Add(-s.options.HistoryWindow))
	if target > s.compacted.Load() {
		if err := s.compact(target); err != nil {
			s.options.Log.Error("forget old history", "error", err)
		}
	}
}
