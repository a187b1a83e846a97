// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// Bounds of the time between two rounds of housekeeping.
const (
	housekeepEvery = time.Second
	housekeepRest  = time.Minute // however little there is to do: clocks are set now and then
	// feedRest is how long events stay in memory, at least, unless there are too many.
	feedRest = 4 * time.Second
)

// housekeep deletes expired keys and old history until the store is closed, each when its time has come. It runs beside the
// sequencer: no write waits for it.
func (s *Store) housekeep() {
	pause := time.NewTimer(housekeepEvery)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			s.expire(s.expired())
			s.forgetOld()
			s.rest()
			s.feeding.Store(false) // what is written from now on is told
			if s.feed.Rest() {
				s.feeding.Store(true)
			}
		case <-s.sooner:
		case <-s.stop:
			return
		}
		pause.Reset(s.untilDue())
	}
}

// untilDue finds when there will be something to do, and notes it for writers, who tell if they bring it forward.
func (s *Store) untilDue() time.Duration {
	if s.options.manual {
		return housekeepEvery
	}
	s.due.Store(math.MaxInt64) // what is written from now on tells if it is not seen below
	due := min(s.nextExpiry(), s.oldestMark(), s.nextRest())
	s.due.Store(due)
	return min(max(time.Unix(due, 0).Sub(s.options.Now()), housekeepEvery), housekeepRest)
}

// bringForward tells the housekeeping that there is something to do at a Unix second.
func (s *Store) bringForward(at int64) {
	if at >= s.due.Load() {
		return
	}
	select {
	case s.sooner <- struct{}{}:
	default:
	}
}

// nextExpiry is the Unix second at which a key expires next, or a very late one.
func (s *Store) nextExpiry() int64 {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableExpiry}, UpperBound: []byte{tableExpiry + 1}})
	if err != nil {
		return never
	}
	defer it.Close()
	if !it.First() || len(it.Key()) != 17 {
		return never
	}
	return int64(binary.BigEndian.Uint64(it.Key()[1:]))
}

// nextRest is the Unix second at which the feed may forget what it has in memory, or a very late one.
func (s *Store) nextRest() int64 {
	if !s.feeding.Load() {
		return never
	}
	return s.options.Now().Unix() + int64(feedRest/time.Second)
}

// never is a Unix second that does not come.
const never = 1 << 40

// oldestMark is the Unix second at which the oldest mark leaves the history window, or a very late one.
func (s *Store) oldestMark() int64 {
	s.marking.Lock()
	defer s.marking.Unlock()
	if len(s.marks) == 0 {
		return never
	}
	return s.marks[0].at.Add(s.options.HistoryWindow).Unix() + 1
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
	n := len(s.marks)
	if n == 0 {
		s.bringForward(now.Add(s.options.HistoryWindow).Unix() + 1)
	}
	if n == 0 || now.Sub(s.marks[n-1].at) >= housekeepEvery {
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
