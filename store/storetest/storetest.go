// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package storetest holds the contract of store.Store as tests that every backend must pass.
//
// Run takes a backend and reports each broken promise by name.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"knarr.dev/store"
)

// Clock is a clock that tests move.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at a fixed time.
func NewClock() *Clock { return &Clock{now: time.Unix(1_700_000_000, 0)} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Backend is what the suite tests.
type Backend struct {
	// Open makes an empty store with a clock; the suite closes it.
	Open func(t *testing.T, clock *Clock) store.Store
	// RealTime says that the store cannot be given a clock: keys with a TTL end in real time.
	RealTime bool
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	ttl := testTTL
	if b.RealTime {
		ttl = testRealTTL
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s store.Store, c *Clock)
	}{
		{"conditions", testConditions},
		{"ends", testEnds},
		{"revisions", testRevisions},
		{"lists", testLists},
		{"reads of the past", testPast},
		{"watch", testWatch},
		{"watch from a revision", testWatchFrom},
		{"compaction", testCompaction},
		{"slow watcher", testSlowWatcher},
		{"time to live", ttl},
		{"concurrent writers", testConcurrent},
		{"close", testClose},
		{"random histories", testRandom},
		{"drawn histories", testHistories},
		{"linearizability", testLinearizable},
		{"many watchers", testManyWatchers},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := NewClock()
			s := b.Open(t, c)
			defer s.Close()
			test.run(t, s, c)
		})
	}
}

func put(t *testing.T, s store.Store, key, value string) int64 {
	t.Helper()
	r, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte(value), Expect: store.Any})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return r.Modified
}

func remove(t *testing.T, s store.Store, key string) int64 {
	t.Helper()
	r, err := s.Write(t.Context(), store.Op{Key: key, Expect: store.Any})
	if err != nil {
		t.Fatalf("remove %s: %v", key, err)
	}
	return r.Modified
}

func read(t *testing.T, s store.Store, q store.Query) store.Page {
	t.Helper()
	p, err := s.Read(t.Context(), q)
	if err != nil {
		t.Fatalf("read %+v: %v", q, err)
	}
	return p
}

// text shows records as key=value@modified.
func text(records []store.Record) []string {
	var out []string
	for _, r := range records {
		out = append(out, fmt.Sprintf("%s=%s@%d", r.Key, r.Value, r.Modified))
	}
	return out
}

func next(t *testing.T, w store.Watcher, n int) []store.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var events []store.Event
	for len(events) < n {
		more, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(events), n, err)
		}
		events = append(events, more...)
	}
	if len(events) > n {
		t.Fatalf("%d events, want %d", len(events), n)
	}
	return events
}

func testConditions(t *testing.T, s store.Store, _ *Clock) {
	ctx := t.Context()
	a, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("1"), Expect: store.Absent})
	if err != nil || a.Created != a.Modified {
		t.Fatalf("create: %+v, %v", a, err)
	}
	have, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("2"), Expect: store.Absent})
	if !errors.Is(err, store.ErrConflict) || have.Modified != a.Modified || string(have.Value) != "1" {
		t.Errorf("second create: %+v, %v", have, err)
	}
	b, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("2"), Expect: a.Modified})
	if err != nil || b.Modified <= a.Modified || b.Created != a.Created {
		t.Errorf("update: %+v, %v", b, err)
	}
	if _, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("3"), Expect: a.Modified}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("stale update: %v", err)
	}
	if _, err := s.Write(ctx, store.Op{Key: "/a", Expect: a.Modified}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("stale delete: %v", err)
	}
	if _, err := s.Write(ctx, store.Op{Key: "/a", Expect: b.Modified}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if have, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("4"), Expect: b.Modified}); !errors.Is(err, store.ErrConflict) || have.Value != nil || have.Modified != 0 {
		t.Errorf("update of a deleted key: %+v, %v", have, err)
	}
	if _, err := s.Write(ctx, store.Op{Key: "/a", Value: make([]byte, store.MaxValueBytes+1), Expect: store.Any}); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("large value: %v", err)
	}
	if c, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("5"), Expect: store.Absent}); err != nil || c.Created != c.Modified {
		t.Errorf("create again: %+v, %v", c, err)
	}
}

// testEnds writes and deletes at once.
func testEnds(t *testing.T, s store.Store, _ *Clock) {
	ctx := t.Context()
	w, err := s.Watch(ctx, "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	old := put(t, s, "/a", "1")
	ending := store.Op{Key: "/a", Value: []byte("2"), Expect: old - 1, Attachment: "last", End: &store.End{Attachment: "gone"}}
	if have, err := s.Write(ctx, ending); !errors.Is(err, store.ErrConflict) || have.Modified != old {
		t.Errorf("refused: %+v, %v", have, err)
	}
	ending.Expect = old
	end, err := s.Write(ctx, ending)
	if err != nil || end.Value != nil || end.Modified <= old+1 {
		t.Fatalf("end: %+v, %v", end, err)
	}
	if p := read(t, s, store.Query{Key: "/a"}); len(p.Records) > 0 || p.Revision < end.Modified {
		t.Errorf("after the end: %+v", p)
	}
	var got []string
	for _, e := range next(t, w, 3)[1:] {
		got = append(got, fmt.Sprintf("%d %v %v %v", e.Size, e.Deleted, e.Attachment, e.Modified == end.Modified))
	}
	if want := []string{"1 false last false", "0 true gone true"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	last := read(t, s, store.Query{Key: "/a", Revision: end.Modified - 1})
	if got := text(last.Records); len(got) != 1 {
		t.Errorf("before the deletion: %v", got)
	}
	if _, err := s.Write(ctx, store.Op{Key: "/a", Value: []byte("3"), Expect: store.Absent}); err != nil {
		t.Errorf("create again: %v", err)
	}
}

func testRevisions(t *testing.T, s store.Store, _ *Clock) {
	first := put(t, s, "/a", "1")
	if second := put(t, s, "/b", "1"); second != first+1 {
		t.Errorf("revisions %d, %d", first, second)
	}
	if p := read(t, s, store.Query{Key: "/none"}); p.Revision != first+1 || len(p.Records) != 0 {
		t.Errorf("read of nothing: %+v", p)
	}
	if r := remove(t, s, "/none"); r > first+1 {
		t.Errorf("deleting nothing gave revision %d", r)
	}
}

func testLists(t *testing.T, s store.Store, _ *Clock) {
	for _, key := range []string{"/p/a", "/p/b", "/p/b/c", "/p/c", "/q/a", "/p0"} {
		put(t, s, key, "1")
	}
	put(t, s, "/p/b", "2")
	remove(t, s, "/p/c")
	p := read(t, s, store.Query{Key: "/p/", Prefix: true})
	if got := text(p.Records); len(got) != 3 || got[0][:6] != "/p/a=1" || got[1][:6] != "/p/b=2" || got[2][:8] != "/p/b/c=1" {
		t.Errorf("list: %v", got)
	}
	p = read(t, s, store.Query{Key: "/p/", Prefix: true, Limit: 2})
	if len(p.Records) != 2 || !p.More || p.Count != 3 {
		t.Errorf("first page: %+v", p)
	}
	p = read(t, s, store.Query{Key: "/p/", Prefix: true, Limit: 2, After: p.Records[1].Key, Revision: p.Revision})
	if len(p.Records) != 1 || p.More || p.Records[0].Key != "/p/b/c" {
		t.Errorf("second page: %+v", p)
	}
	if p := read(t, s, store.Query{Key: "/p/", Prefix: true, CountOnly: true}); p.Count != 3 || p.Records != nil {
		t.Errorf("count: %+v", p)
	}
	if p := read(t, s, store.Query{Key: "/p/b"}); len(p.Records) != 1 || p.Count != 1 {
		t.Errorf("one: %+v", p)
	}
}

func testPast(t *testing.T, s store.Store, _ *Clock) {
	r1 := put(t, s, "/a", "1")
	r2 := put(t, s, "/a", "2")
	r3 := remove(t, s, "/a")
	r4 := put(t, s, "/a", "4")
	for _, test := range []struct {
		at   int64
		want string
	}{{r1, "1"}, {r2, "2"}, {r3, ""}, {r4, "4"}} {
		for _, q := range []store.Query{{Key: "/a", Revision: test.at}, {Key: "/", Prefix: true, Revision: test.at}} {
			p := read(t, s, q)
			got := ""
			if len(p.Records) > 0 {
				got = string(p.Records[0].Value)
			}
			if got != test.want || p.Revision != test.at {
				t.Errorf("%+v: got %q at %d, want %q", q, got, p.Revision, test.want)
			}
		}
	}
	if _, err := s.Read(t.Context(), store.Query{Key: "/a", Revision: r4 + 1}); !errors.Is(err, store.ErrFuture) {
		t.Errorf("future: %v", err)
	}
}

func testWatch(t *testing.T, s store.Store, _ *Clock) {
	put(t, s, "/p/a", "0")
	w, err := s.Watch(t.Context(), "/p/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	attachment := &struct{ int }{1}
	if _, err := s.Write(t.Context(), store.Op{Key: "/p/a", Value: []byte("1"), Expect: store.Any, Attachment: attachment}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "/q/a", "x")
	put(t, s, "/p/b", "2")
	last := remove(t, s, "/p/a")
	events := next(t, w, 3)
	if e := events[0]; e.Value != nil && string(e.Value) != "1" || e.Size != 1 || before(t, s, e) != "0" || e.Attachment != any(attachment) {
		t.Errorf("update: %+v", e)
	}
	if e := events[1]; e.Key != "/p/b" || e.Prev != nil || e.Created != e.Modified {
		t.Errorf("creation: %+v", e)
	}
	if e := events[2]; !e.Deleted || e.Modified != last || e.Value != nil || before(t, s, e) != "1" {
		t.Errorf("deletion: %+v", e)
	}
	put(t, s, "/q/b", "x")
	newest := read(t, s, store.Query{Key: "/q/b"}).Revision
	if r, err := w.Progress(t.Context()); err != nil || r < newest {
		t.Errorf("progress %d, %v, want at least %d", r, err, newest)
	}
}

// before is the value that a change replaced, or nothing.
func before(t *testing.T, s store.Store, e store.Event) string {
	t.Helper()
	if e.Prev != nil {
		return string(e.Prev.Value)
	}
	p := read(t, s, store.Query{Key: e.Key, Revision: e.Modified - 1})
	if len(p.Records) == 0 {
		return ""
	}
	return string(p.Records[0].Value)
}

func testWatchFrom(t *testing.T, s store.Store, _ *Clock) {
	var revisions []int64
	for i := range 5000 {
		revisions = append(revisions, put(t, s, fmt.Sprintf("/p/%d", i%10), fmt.Sprint(i)))
	}
	for _, from := range []int{0, 17, 2500, 4990, 4999} {
		w, err := s.Watch(t.Context(), "/p/", revisions[from])
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range next(t, w, len(revisions)-from-1) {
			if want := revisions[from+1+i]; e.Modified != want || string(e.Value) != fmt.Sprint(from+1+i) {
				t.Fatalf("from %d: event %d is %s=%s@%d, want revision %d", from, i, e.Key, e.Value, e.Modified, want)
			}
			if from+1+i >= 10 && i%50 == 0 && before(t, s, e) != fmt.Sprint(from+1+i-10) {
				t.Fatalf("from %d: before event %d was %q", from, i, before(t, s, e))
			}
		}
		w.Close()
		if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("next after close: %v", err)
		}
	}
}

func testCompaction(t *testing.T, s store.Store, _ *Clock) {
	r1 := put(t, s, "/a", "1")
	r2 := put(t, s, "/a", "2")
	put(t, s, "/b", "1")
	r4 := remove(t, s, "/b")
	r5 := put(t, s, "/a", "3")
	if err := s.Compact(t.Context(), r5+1); !errors.Is(err, store.ErrFuture) {
		t.Errorf("compaction of the future: %v", err)
	}
	if err := s.Compact(t.Context(), r4); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{r1, r2} {
		if _, err := s.Read(t.Context(), store.Query{Key: "/a", Revision: at}); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("read at %d: %v", at, err)
		}
	}
	if p := read(t, s, store.Query{Key: "/", Prefix: true, Revision: r4}); !slices.Equal(text(p.Records), []string{fmt.Sprintf("/a=2@%d", r2)}) {
		t.Errorf("at the compacted revision: %v", text(p.Records))
	}
	if _, err := s.Watch(t.Context(), "/", r2); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch of what is gone: %v", err)
	}
	w, err := s.Watch(t.Context(), "/", r4)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if e := next(t, w, 1)[0]; e.Modified != r5 {
		t.Errorf("first event: %+v", e)
	}
	if p := read(t, s, store.Query{Key: "/", Prefix: true}); !slices.Equal(text(p.Records), []string{fmt.Sprintf("/a=3@%d", r5)}) {
		t.Errorf("now: %v", text(p.Records))
	}
	if err := s.Compact(t.Context(), r4); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compaction again: %v", err)
	}
}

func testSlowWatcher(t *testing.T, s store.Store, _ *Clock) {
	w, err := s.Watch(t.Context(), "/p/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const n = 6000 // more than any backend buffers
	for i := range n {
		put(t, s, "/p/a", fmt.Sprint(i))
	}
	for i, e := range next(t, w, n) {
		if string(e.Value) != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, e.Value)
		}
	}
}

func testTTL(t *testing.T, s store.Store, c *Clock) {
	w, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write := func(key string) {
		if _, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte("x"), Expect: store.Any, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	write("/ends")
	write("/renewed")
	c.Advance(40 * time.Second)
	write("/renewed")
	put(t, s, "/stays", "x")
	c.Advance(30 * time.Second)
	events := next(t, w, 5)
	if e := events[4]; !e.Deleted || e.Key != "/ends" {
		t.Errorf("got %+v", e)
	}
	if p := read(t, s, store.Query{Key: "/", Prefix: true}); len(p.Records) != 2 {
		t.Errorf("left: %v", text(p.Records))
	}
}

// testRealTTL is testTTL for stores that cannot be given a clock.
func testRealTTL(t *testing.T, s store.Store, _ *Clock) {
	w, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, op := range []store.Op{{Key: "/ends", TTL: time.Second}, {Key: "/renewed", TTL: time.Second}, {Key: "/renewed", TTL: time.Hour}, {Key: "/stays"}} {
		op.Value, op.Expect = []byte("x"), store.Any
		if _, err := s.Write(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	events := next(t, w, 5)
	if e := events[4]; !e.Deleted || e.Key != "/ends" {
		t.Errorf("got %+v", e)
	}
	if p := read(t, s, store.Query{Key: "/", Prefix: true}); len(p.Records) != 2 {
		t.Errorf("left: %v", text(p.Records))
	}
}

// testConcurrent increments counters from many goroutines: no increment may be lost, and revisions are unique.
func testConcurrent(t *testing.T, s store.Store, _ *Clock) {
	const writers, each = 16, 50
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				for {
					p, err := s.Read(t.Context(), store.Query{Key: "/counter"})
					if err != nil {
						t.Error(err)
						return
					}
					n, expect := 0, store.Absent
					if len(p.Records) > 0 {
						fmt.Sscan(string(p.Records[0].Value), &n)
						expect = p.Records[0].Modified
					}
					r, err := s.Write(t.Context(), store.Op{Key: "/counter", Value: fmt.Append(nil, n+1), Expect: expect})
					if errors.Is(err, store.ErrConflict) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if seen[r.Modified] {
						t.Errorf("revision %d was given twice", r.Modified)
					}
					seen[r.Modified] = true
					mu.Unlock()
					break
				}
			}
		})
	}
	wg.Wait()
	if p := read(t, s, store.Query{Key: "/counter"}); string(p.Records[0].Value) != fmt.Sprint(writers*each) {
		t.Errorf("counter is %s, want %d", p.Records[0].Value, writers*each)
	}
}

func testClose(t *testing.T, s store.Store, _ *Clock) {
	w, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("next: %v", err)
	}
	if _, err := s.Read(t.Context(), store.Query{Key: "/"}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Write(t.Context(), store.Op{Key: "/a", Value: []byte("1"), Expect: store.Any}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if _, err := s.Watch(t.Context(), "/", 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("watch: %v", err)
	}
}
