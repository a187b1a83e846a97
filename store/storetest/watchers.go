// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"knarr.dev/store"
)

// Sizes of testManyWatchers.
const (
	manyWatchers  = 10_000
	manyPrefixes  = 50
	manyReaders   = 500 // watchers that are read all the time; the others not before the end
	manyWriters   = 8
	writesEach    = 400
	drained       = 60 // of the slow ones, at the end
	maxPerWatcher = 4 << 10
)

// testManyWatchers writes while ten thousand watchers are open, most of which do not read, and others come and go. No writer may wait
// for them, what they hold must be bounded, and each must get what was written to its prefix, in order, without a gap or a repeat.
func testManyWatchers(t *testing.T, s store.Store, _ *Clock) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before := heap()
	watchers := make([]store.Watcher, manyWatchers)
	from := read(t, s, store.Query{Key: "/w/"}).Revision
	for i := range watchers {
		w, err := s.Watch(ctx, prefixOf(i), from)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watchers[i] = w
	}
	written := newJournal()
	var writers, readers sync.WaitGroup
	for id := range manyWriters {
		random := rand.New(rand.NewPCG(uint64(id), 0))
		writers.Go(func() {
			for i := range writesEach {
				op := store.Op{Key: fmt.Sprintf("%s%d", prefixOf(random.IntN(manyPrefixes)), random.IntN(5)), Value: fmt.Append(nil, id, i), Expect: store.Any}
				r, err := s.Write(ctx, op)
				if err != nil {
					t.Error(err)
					return
				}
				written.add(op.Key, r.Modified)
			}
		})
	}
	churning, stop := context.WithCancel(ctx)
	var churn sync.WaitGroup
	churn.Go(func() {
		for i := 0; churning.Err() == nil; i++ {
			w, err := s.Watch(churning, prefixOf(i), 0)
			if err != nil {
				if churning.Err() == nil {
					t.Error(err)
				}
				return
			}
			short, done := context.WithTimeout(churning, time.Duration(i%3)*time.Millisecond)
			_, _ = w.Next(short)
			done()
			w.Close()
		}
	})
	got := make([][]int64, manyReaders)
	finished := make(chan struct{}) // closed when all is written
	for i := range manyReaders {
		readers.Go(func() { got[i] = follow(ctx, t, watchers[i], prefixOf(i), written, finished) })
	}
	writers.Wait()
	close(finished)
	stop()
	churn.Wait()
	readers.Wait()
	if grown := heap() - before; grown > manyWatchers*maxPerWatcher {
		t.Errorf("%d watchers hold %d bytes", manyWatchers, grown)
	}
	for i := range manyReaders {
		written.compare(t, prefixOf(i), got[i])
	}
	for i := manyReaders; i < manyReaders+drained; i++ {
		written.compare(t, prefixOf(i), follow(ctx, t, watchers[i], prefixOf(i), written, finished))
	}
}

func prefixOf(i int) string { return fmt.Sprintf("/w/%02d/", i%manyPrefixes) }

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// follow reads a watcher until it has shown as many events as were written to its prefix in the end, and returns their revisions.
func follow(ctx context.Context, t *testing.T, w store.Watcher, prefix string, written *journal, finished <-chan struct{}) []int64 {
	var got []int64
	take := func(ctx context.Context) error {
		events, err := w.Next(ctx)
		for _, e := range events {
			got = append(got, e.Modified)
		}
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	go func() {
		select {
		case <-finished:
		case <-reading.Done():
		}
		stop()
	}()
	for take(reading) == nil {
	}
	for len(got) < written.count(prefix) {
		if err := take(ctx); err != nil {
			t.Errorf("watch %s: after %d of %d events: %v", prefix, len(got), written.count(prefix), err)
			return got
		}
	}
	return got
}

// journal is what was written, by prefix.
type journal struct {
	mu        sync.Mutex
	revisions map[string]map[int64]bool
}

func newJournal() *journal { return &journal{revisions: map[string]map[int64]bool{}} }

func (j *journal) add(key string, revision int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	prefix := key[:len(prefixOf(0))]
	if j.revisions[prefix] == nil {
		j.revisions[prefix] = map[int64]bool{}
	}
	j.revisions[prefix][revision] = true
}

func (j *journal) count(prefix string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.revisions[prefix])
}

// compare looks whether revisions rise and are those that were written.
func (j *journal) compare(t *testing.T, prefix string, got []int64) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(got) != len(j.revisions[prefix]) {
		t.Errorf("watch %s: %d events, want %d", prefix, len(got), len(j.revisions[prefix]))
	}
	last := int64(0)
	for _, r := range got {
		if r <= last || !j.revisions[prefix][r] {
			t.Errorf("watch %s: revision %d after %d, written: %v", prefix, r, last, j.revisions[prefix][r])
			return
		}
		last = r
	}
}
