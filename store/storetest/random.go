// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"knarr.dev/store"
)

// Model is the simplest store that could be: every state there was.
type Model struct {
	// States holds the content at each revision; a revision without an entry has that of the one before.
	States map[int64]map[string]Value
	// Newest is the newest revision, Compacted the newest that is forgotten.
	Newest, Compacted int64
}

// Value is a value and the revision that wrote it.
type Value struct {
	Value    string
	Modified int64
}

// NewModel returns an empty model whose newest revision is r.
func NewModel(r int64) *Model {
	return &Model{States: map[int64]map[string]Value{r: {}}, Newest: r}
}

// Apply records a write that the store acknowledged; value nil is a deletion.
func (m *Model) Apply(key string, value []byte, revision int64) {
	state := maps.Clone(m.States[m.Newest])
	if value == nil {
		delete(state, key)
	} else {
		state[key] = Value{string(value), revision}
	}
	m.States[revision], m.Newest = state, revision
}

// Check compares what a store has at a revision (0: now) with the model.
func (m *Model) Check(t testing.TB, s store.Store, at int64) {
	t.Helper()
	p, err := s.Read(t.Context(), store.Query{Key: "/", Prefix: true, Revision: at})
	if at != 0 && at < m.Compacted {
		if !errors.Is(err, store.ErrCompacted) {
			t.Fatalf("read at %d, compacted to %d: %v", at, m.Compacted, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("read at %d: %v", at, err)
	}
	if at == 0 {
		at = m.Newest
	}
	got := map[string]Value{}
	for _, r := range p.Records {
		got[r.Key] = Value{string(r.Value), r.Modified}
	}
	if want := m.States[at]; !maps.Equal(got, want) {
		t.Fatalf("at %d: got %v, want %v", at, got, want)
	}
}

// testRandom compares a random history with the model, and a watch with the history.
func testRandom(t *testing.T, s store.Store, _ *Clock) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m := NewModel(read(t, s, store.Query{Key: "/"}).Revision)
	w, err := s.Watch(t.Context(), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var want []string
	for i := range 1500 {
		key := fmt.Sprintf("/%d", r.IntN(20))
		current, there := m.States[m.Newest][key]
		op := store.Op{Key: key, Expect: store.Any}
		switch r.IntN(3) {
		case 0:
			op.Expect = current.Modified
		case 1:
			op.Expect = int64(r.IntN(int(m.Newest) + 1))
		}
		if r.IntN(4) > 0 {
			op.Value = fmt.Append(nil, i)
		}
		holds := op.Expect == store.Any || op.Expect == current.Modified
		got, err := s.Write(t.Context(), op)
		switch {
		case holds && err != nil, !holds && !errors.Is(err, store.ErrConflict):
			t.Fatalf("%+v on %+v: %v", op, current, err)
		case holds && (op.Value != nil || there):
			m.Apply(key, op.Value, got.Modified)
			want = append(want, fmt.Sprintf("%s=%s@%d", key, op.Value, got.Modified))
		}
		switch r.IntN(20) {
		case 0:
			m.Check(t, s, 0)
		case 1:
			revisions := slices.Sorted(maps.Keys(m.States))
			m.Check(t, s, revisions[r.IntN(len(revisions))])
		case 2:
			if to := m.Newest - int64(r.IntN(100)); to > m.Compacted && to > 1 && m.States[to] != nil {
				if err := s.Compact(t.Context(), to); err != nil {
					t.Fatal(err)
				}
				m.Compacted = to
			}
		}
	}
	m.Check(t, s, 0)
	var got []string
	for _, e := range next(t, w, len(want)) {
		got = append(got, fmt.Sprintf("%s=%s@%d", e.Key, e.Value, e.Modified))
	}
	if !slices.Equal(got, want) {
		t.Errorf("events differ from the history")
	}
}
