// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/store"
)

// TestIndexTakesOverWhatWasStored merges what a load found with what was written beside it.
func TestIndexTakesOverWhatWasStored(t *testing.T) {
	x := index{slots: map[string]slot{}, loading: make(chan map[string]slot)}
	x.set("/updated", &version{revision: 9, created: 2})
	x.set("/deleted", &version{revision: 10, deleted: true})
	x.set("/created", &version{revision: 11, created: 11, expires: 7})
	x.merge(map[string]slot{"/updated": {2, 2, 0}, "/deleted": {3, 3, 0}, "/kept": {4, 4, 5}})
	want := map[string]slot{"/updated": {9, 2, 0}, "/created": {11, 11, 7}, "/kept": {4, 4, 5}}
	if !maps.Equal(x.slots, want) || x.loading != nil {
		t.Errorf("%+v", x.slots)
	}
	x.set("/kept", &version{revision: 12, deleted: true})
	if len(x.slots) != 2 {
		t.Errorf("a key that is gone takes room: %+v", x.slots)
	}
}

// TestConditionsAfterReopen looks whether conditions hold at once after a start, and when the index is loaded.
func TestConditionsAfterReopen(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *Store {
		s, err := Open("db", Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	have := map[string]int64{}
	write := func(op store.Op) error {
		r, err := s.Write(t.Context(), op)
		if err == nil && op.Value != nil {
			have[op.Key] = r.Modified
		}
		return err
	}
	for i := range 3000 {
		if err := write(store.Op{Key: fmt.Sprintf("/%d", i), Value: []byte("x"), Expect: store.Absent}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		if err := write(store.Op{Key: fmt.Sprintf("/%d", i), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open()
		if round == 2 {
			s.index.merge(<-s.index.loading)
		}
		for i := 0; i < 3000; i += 97 {
			key := fmt.Sprintf("/%d", i)
			if err := write(store.Op{Key: key, Value: []byte("y"), Expect: store.Absent}); (err == nil) != (i < 1000 && round == 0) {
				t.Fatalf("round %d: creation of %s: %v", round, key, err)
			}
			if err := write(store.Op{Key: key, Value: []byte("z"), Expect: have[key] - 1}); !errors.Is(err, store.ErrConflict) {
				t.Fatalf("round %d: stale update of %s: %v", round, key, err)
			}
			if err := write(store.Op{Key: key, Value: []byte("z"), Expect: have[key]}); err != nil {
				t.Fatalf("round %d: update of %s: %v", round, key, err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFormatOne opens a store whose log has only keys, as format 1 had it, and forgets its history.
func TestFormatOne(t *testing.T) {
	fs := vfs.NewMem()
	s, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	ops := []store.Op{{Key: "/a", Value: []byte("1")}, {Key: "/a", Value: []byte("2")}, {Key: "/b", Value: []byte("1")}, {Key: "/b"}}
	for i := range ops {
		ops[i].Expect = store.Any
		if _, err := s.Write(t.Context(), ops[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, op := range ops {
		if err := s.db.Set(logKey(int64(2+i)), []byte(op.Key), pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.db.Set(metaFormat, binary.BigEndian.AppendUint64(nil, 1), pebble.Sync), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = Open("db", Options{FS: fs}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Compact(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	rows := 0
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableVersions}, UpperBound: []byte{tableVersions + 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		rows++
	}
	if rows != 1 {
		t.Errorf("%d versions are left, want that of /a alone", rows)
	}
}
