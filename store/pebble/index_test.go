// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"errors"
	"fmt"
	"maps"
	"testing"

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
			s.loads.Wait()
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
