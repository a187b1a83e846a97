// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"slices"
	"testing"

	"knarr.dev/store"
)

// TestRest forgets events that a watch has not returned yet: it reads them from history.
func TestRest(t *testing.T) {
	var all []store.Event
	f := New(Config{
		Revision: 1,
		Past: func(_ context.Context, _ string, after, to int64) ([]store.Event, int64, error) {
			var out []store.Event
			for _, e := range all {
				if e.Modified > after && e.Modified <= to {
					out = append(out, e)
				}
			}
			return out, to, nil
		},
		Current: func(context.Context) (int64, error) { return int64(len(all)) + 1, nil },
	})
	publish := func() {
		e := store.Event{Record: store.Record{Key: "/a/b", Value: []byte("v"), Modified: int64(len(all)) + 2}}
		all = append(all, e)
		f.Publish([]store.Event{e}, e.Modified)
	}
	publish()
	quick, err := f.Watch("/a/", 1)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := f.Watch("/a/", 1)
	if err != nil {
		t.Fatal(err)
	}
	next := func(w *Watch, want ...int64) {
		t.Helper()
		var got []int64
		for len(got) < len(want) {
			events, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				got = append(got, e.Modified)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("revisions %v, want %v", got, want)
		}
	}
	next(quick, 2)
	if !f.Rest() {
		t.Error("nothing left after what has just come")
	}
	publish()
	if !f.Rest() || f.Rest() || f.Rest() {
		t.Error("not forgotten at the second time")
	}
	publish()
	next(quick, 3, 4)
	next(slow, 2, 3, 4)
	if len(f.events) != 1 {
		t.Errorf("%d events in memory", len(f.events))
	}
}
