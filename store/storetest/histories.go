// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knarr.dev/store"
)

// testHistories draws histories that shrink to the shortest which breaks a promise: writes with conditions, lists in pages now and in the
// past, counts, and watches from any revision, each compared with the model.
func testHistories(t *testing.T, s store.Store, _ *Clock) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		h := &drawn{T: rt, t: t, s: s, prefix: fmt.Sprintf("/h%d/", run)}
		h.m = NewModel(read(t, s, store.Query{Key: "/none"}).Revision)
		h.first = h.m.Newest
		rt.Repeat(map[string]func(*rapid.T){
			"write": h.write, "list": h.list, "watch": h.watch, "": h.check,
		})
	})
}

// drawn is one history and the model of its keys.
type drawn struct {
	*rapid.T
	t      *testing.T
	s      store.Store
	prefix string
	m      *Model
	first  int64
	events []string
}

func (h *drawn) key() string {
	return h.prefix + rapid.SampledFrom([]string{"a", "a/b", "a0", "b", "c"}).Draw(h.T, "key")
}

// at draws a revision of this history.
func (h *drawn) at() int64 { return rapid.Int64Range(h.first, h.m.Newest).Draw(h.T, "revision") }

// state is what the model has at a revision.
func (h *drawn) state(at int64) map[string]Value {
	for ; ; at-- {
		if state, ok := h.m.States[at]; ok {
			return state
		}
	}
}

func (h *drawn) write(*rapid.T) {
	key := h.key()
	current, there := h.m.States[h.m.Newest][key]
	op := store.Op{Key: key, Expect: rapid.SampledFrom([]int64{store.Any, store.Absent, current.Modified, h.first}).Draw(h.T, "expect")}
	if rapid.Bool().Draw(h.T, "put") {
		op.Value = rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(h.T, "value")
		if op.Value == nil {
			op.Value = []byte{}
		}
		if rapid.IntRange(0, 3).Draw(h.T, "end") == 3 {
			op.End = &store.End{}
		}
	}
	got, err := h.s.Write(h.t.Context(), op)
	holds := op.Expect == store.Any || op.Expect == current.Modified
	switch {
	case !holds:
		if !errors.Is(err, store.ErrConflict) || there && (got.Modified != current.Modified || string(got.Value) != current.Value) {
			h.Fatalf("%+v on %+v: %+v, %v", op, current, got, err)
		}
	case err != nil:
		h.Fatalf("%+v on %+v: %v", op, current, err)
	case op.Value == nil && !there:
	case got.Modified <= h.m.Newest:
		h.Fatalf("%+v: revision %d after %d", op, got.Modified, h.m.Newest)
	case op.End != nil:
		h.apply(key, op.Value, got.Modified-1)
		h.apply(key, nil, got.Modified)
	default:
		h.apply(key, op.Value, got.Modified)
	}
}

func (h *drawn) apply(key string, value []byte, revision int64) {
	h.m.Apply(key, value, revision)
	h.events = append(h.events, fmt.Sprintf("%d %s %v %q", revision, key, value == nil, value))
}

// list reads some keys, in pages, at a revision, and counts them.
func (h *drawn) list(*rapid.T) {
	at, prefix := h.at(), h.prefix+rapid.SampledFrom([]string{"", "a", "a/", "x"}).Draw(h.T, "prefix")
	limit := rapid.IntRange(0, 3).Draw(h.T, "limit")
	var want, got []string
	for key, v := range h.state(at) {
		if strings.HasPrefix(key, prefix) {
			want = append(want, fmt.Sprintf("%s=%q@%d", key, v.Value, v.Modified))
		}
	}
	slices.Sort(want)
	q := store.Query{Key: prefix, Prefix: true, Limit: limit, Revision: at}
	for more := true; more; {
		p, err := h.s.Read(h.t.Context(), q)
		if err != nil || p.Revision != at || limit > 0 && len(p.Records) > limit {
			h.Fatalf("%+v: %+v, %v", q, p, err)
		}
		for _, r := range p.Records {
			got = append(got, fmt.Sprintf("%s=%q@%d", r.Key, r.Value, r.Modified))
		}
		if more = p.More; more {
			q.After = p.Records[len(p.Records)-1].Key
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		h.Fatalf("%+v: got %v, want %v", q, got, want)
	}
	p, err := h.s.Read(h.t.Context(), store.Query{Key: prefix, Prefix: true, CountOnly: true, Revision: at})
	if err != nil || p.Count != int64(len(want)) {
		h.Fatalf("count of %s at %d: %+v, %v, want %d", prefix, at, p, err, len(want))
	}
}

// watch reads all events after a revision.
func (h *drawn) watch(*rapid.T) {
	after := h.at()
	var want, got []string
	for _, e := range h.events {
		var revision int64
		if _, err := fmt.Sscan(e, &revision); err != nil || revision > after {
			want = append(want, e)
		}
	}
	w, err := h.s.Watch(h.t.Context(), h.prefix, after)
	if err != nil {
		h.Fatal(err)
	}
	defer w.Close()
	for len(got) < len(want) {
		events, err := w.Next(h.t.Context())
		if err != nil {
			h.Fatal(err)
		}
		for _, e := range events {
			got = append(got, fmt.Sprintf("%d %s %v %q", e.Modified, e.Key, e.Deleted, e.Value))
		}
	}
	if !slices.Equal(got, want) {
		h.Fatalf("watch after %d: got %v, want %v", after, got, want)
	}
	if r, err := w.Progress(h.t.Context()); err != nil || r < h.m.Newest {
		h.Fatalf("progress %d, %v, want %d", r, err, h.m.Newest)
	}
}

// check compares the whole state.
func (h *drawn) check(*rapid.T) {
	p, err := h.s.Read(h.t.Context(), store.Query{Key: h.prefix, Prefix: true})
	if err != nil {
		h.Fatal(err)
	}
	got := map[string]Value{}
	for _, r := range p.Records {
		got[r.Key] = Value{string(r.Value), r.Modified}
	}
	want := h.m.States[h.m.Newest]
	for key, v := range want {
		if got[key] != v {
			h.Fatalf("%s is %+v, want %+v", key, got[key], v)
		}
	}
	if len(got) != len(want) {
		h.Fatalf("%d keys, want %d", len(got), len(want))
	}
}
