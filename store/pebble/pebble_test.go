// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/store"
	"knarr.dev/store/storetest"
)

func TestContract(t *testing.T) {
	for name, memTable := range map[string]uint64{"in memory": 0, "on disk": 16 << 10} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, storetest.Backend{Open: func(t *testing.T, c *storetest.Clock) store.Store {
				s, err := Open("db", Options{FS: vfs.NewMem(), Now: c.Now, memTable: memTable})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}})
		})
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if again, err := Open(dir, Options{}); err == nil {
		again.Close()
		t.Fatal("opened twice")
	} else if !strings.Contains(err.Error(), dir) {
		t.Errorf("the error does not name the directory: %v", err)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	fs := vfs.NewMem()
	c := storetest.NewClock()
	m := storetest.NewModel(1)
	for round := range 5 {
		s, err := Open("db", Options{FS: fs, Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		m.Check(t, s, 0)
		for i := range 50 {
			op := store.Op{Key: fmt.Sprintf("/%d", i%7), Value: fmt.Append(nil, round, i), Expect: store.Any}
			r, err := s.Write(t.Context(), op)
			if err != nil {
				t.Fatal(err)
			}
			m.Apply(op.Key, op.Value, r.Modified)
		}
		if round == 2 {
			if err := s.Compact(t.Context(), m.Newest); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPowerLoss takes copies of the file system as it would be found after a loss of power at random moments, with any
// part of what was not synced, and looks whether every acknowledged write is in each and nothing is half there.
func TestPowerLoss(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 30 {
		fs := vfs.NewCrashableMem()
		o := Options{FS: fs}
		if round%2 == 1 {
			o.memTable = 16 << 10 // with flushes, compactions and blob files in between
		}
		s, err := Open("db", o)
		if err != nil {
			t.Fatal(err)
		}
		history := record(t, s, fs, random)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for i, crash := range history.crashes {
			o.FS = crash.fs
			after, err := Open("db", o)
			if err != nil {
				t.Fatalf("crash %d: %v", i, err)
			}
			history.check(t, after, crash)
			if err := after.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// crash is a file system after a loss of power, and what was acknowledged before.
type crash struct {
	fs           *vfs.MemFS
	acknowledged int64 // every revision up to here was acknowledged
}

type history struct {
	mu      sync.Mutex
	written map[int64]written // revision -> what it wrote
	ends    []int64           // revisions of deletions by Op.End
	crashes []crash
}

type written struct{ key, value string }

func record(t *testing.T, s *Store, fs *vfs.MemFS, random *rand.Rand) *history {
	h := &history{written: map[int64]written{}}
	var wg sync.WaitGroup
	for w := range 4 {
		r := rand.New(rand.NewPCG(random.Uint64(), 0))
		wg.Go(func() {
			for i := range 60 {
				key := fmt.Sprintf("/%d/%d", w, r.IntN(6))
				op := store.Op{Key: key, Expect: store.Any}
				if r.IntN(5) > 0 {
					op.Value = []byte(strings.Repeat(fmt.Sprint(i, ","), 1+r.IntN(300)))
				}
				if op.Value != nil && r.IntN(6) == 0 {
					op.End = &store.End{}
				}
				got, err := s.Write(t.Context(), op)
				if err != nil {
					t.Error(err)
					return
				}
				h.mu.Lock()
				switch {
				case got.Modified == 0: // there was nothing to delete
				case op.End != nil:
					h.written[got.Modified-1] = written{key, string(op.Value)}
					h.written[got.Modified] = written{key, ""}
					h.ends = append(h.ends, got.Modified)
				default:
					h.written[got.Modified] = written{key, string(op.Value)}
				}
				h.mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		select {
		case <-done:
			return h
		default:
		}
		acknowledged := s.Revision() // first: what follows may be acknowledged after the copy
		c := crash{fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random}), acknowledged}
		h.crashes = append(h.crashes, c)
		if len(h.crashes) == 6 {
			<-done
			return h
		}
		if random.IntN(2) == 0 {
			_ = s.Compact(context.Background(), acknowledged-int64(random.IntN(10)))
		}
	}
}

// check compares the store with a replay of the history up to the store's revision.
func (h *history) check(t *testing.T, s *Store, c crash) {
	t.Helper()
	revision := s.Revision()
	if revision < c.acknowledged {
		t.Fatalf("revision %d after the crash, %d was acknowledged", revision, c.acknowledged)
	}
	if slices.Contains(h.ends, revision+1) {
		t.Fatalf("revision %d is stored without the deletion that belongs to it", revision)
	}
	want := map[string]string{}
	for r := int64(2); r <= revision; r++ {
		w, known := h.written[r]
		switch {
		case !known:
			t.Fatalf("revision %d is stored, and no writer had it", r)
		case w.value == "":
			delete(want, w.key)
		default:
			want[w.key] = w.value
		}
	}
	page, err := s.Read(t.Context(), store.Query{Key: "/", Prefix: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range page.Records {
		got[r.Key] = string(r.Value)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("after a crash at revision %d: %d keys, want %d", revision, len(got), len(want))
	}
}

// TestRefusalIsOfWhatCanBeRead puts a write and one that it refuses into one batch: whoever is refused must find the reason.
func TestRefusalIsOfWhatCanBeRead(t *testing.T) {
	s, err := Open("db", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 200 {
		op := store.Op{Key: fmt.Sprintf("/%d", i), Value: []byte("x"), Expect: store.Absent}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				have, err := s.Write(t.Context(), op)
				if !errors.Is(err, store.ErrConflict) {
					return
				}
				p, err := s.Read(t.Context(), store.Query{Key: op.Key})
				if err != nil || len(p.Records) == 0 || p.Records[0].Modified != have.Modified {
					t.Errorf("refused because of %+v, which a read does not show: %+v, %v", have, p, err)
				}
			})
		}
		all.Wait()
	}
}

func TestHistoryWindow(t *testing.T) {
	c := storetest.NewClock()
	s, err := Open("db", Options{FS: vfs.NewMem(), Now: c.Now, HistoryWindow: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write := func() int64 {
		r, err := s.Write(t.Context(), store.Op{Key: "/a", Value: []byte("x"), Expect: store.Any})
		if err != nil {
			t.Fatal(err)
		}
		return r.Modified
	}
	old := write()
	c.Advance(30 * time.Second)
	write()
	c.Advance(40 * time.Second)
	recent := write()
	s.forgetOldNow(t)
	if _, err := s.Read(t.Context(), store.Query{Key: "/a", Revision: recent}); err != nil {
		t.Errorf("recent: %v", err)
	}
	if s.compacted.Load() < old {
		t.Errorf("compacted to %d, want at least %d", s.compacted.Load(), old)
	}
}

// TestRest: what was listed before the store came to rest ends with the history, and then nothing is written any more.
func TestRest(t *testing.T) {
	c := storetest.NewClock()
	s, err := Open("db", Options{FS: vfs.NewMem(), Now: c.Now, HistoryWindow: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Write(t.Context(), store.Op{Key: "/a", Value: []byte("x"), Expect: store.Any})
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		_, err := s.Read(t.Context(), store.Query{Key: "/a", Revision: r.Modified})
		return err
	}
	c.Advance(restAfter)
	for s.revision.Load() == r.Modified {
		time.Sleep(time.Millisecond)
	}
	if err := read(); err != nil {
		t.Errorf("at rest: %v", err)
	}
	c.Advance(5*time.Minute + time.Second)
	s.forgetOldNow(t)
	if err := read(); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("after the history window: %v", err)
	}
	c.Advance(time.Hour)
	s.rest()
	if n := s.revision.Load(); n != r.Modified+1 {
		t.Errorf("at revision %d, not %d", n, r.Modified+1)
	}
}

// forgetOldNow waits for the sequencer's next round of housekeeping.
func (s *Store) forgetOldNow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for s.compacted.Load() == 0 {
		if ctx.Err() != nil {
			t.Fatal("history was not forgotten")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestDecodeRefusesGarbage(t *testing.T) {
	for _, b := range [][]byte{nil, {0}, {0, 0x80}, {2, 1, 1}, {2, 1, 1, 0xff}} {
		if v, err := decodeVersion(b, 1); err == nil && len(b) < 3 {
			t.Errorf("%v decoded to %+v", b, v)
		}
	}
	if _, _, err := splitVersionKey([]byte("v/short")); err == nil {
		t.Error("a short key must be refused")
	}
}

// TestRefusalIsOfItsMoment refuses a creation that a deletion in the same batch follows: what is told is the record that it met.
func TestRefusalIsOfItsMoment(t *testing.T) {
	s, err := Open("db", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var batch []*write
	for _, op := range []store.Op{
		{Key: "/a", Value: []byte("1"), Expect: store.Any},
		{Key: "/a", Value: []byte("2"), Expect: store.Absent},
		{Key: "/a", Expect: store.Any},
		{Key: "/a", Value: []byte("3"), Expect: 2},
	} {
		batch = append(batch, &write{op: op, answer: make(chan answer, 1)})
	}
	s.commit(batch) // no other write comes between
	<-batch[0].answer
	if a := <-batch[1].answer; !errors.Is(a.err, store.ErrConflict) || string(a.record.Value) != "1" {
		t.Errorf("creation: %+v", a)
	}
	if a := <-batch[3].answer; !errors.Is(a.err, store.ErrConflict) || a.record.Modified != 0 {
		t.Errorf("update after the deletion: %+v", a)
	}
}
