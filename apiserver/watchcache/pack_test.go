// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/resource"
)

// Packed, a cache shows what it showed before, to old and new readers, and goes on.
func TestPack(t *testing.T) {
	w := newWorld(t)
	large := strings.Repeat("x", 48<<10)
	var revisions []int64
	for i := range 64 {
		revisions = append(revisions, w.put(fmt.Sprintf("o%02d", i%60), fmt.Sprint(i, large)))
	}
	revisions = append(revisions, w.put("o59", ""))
	old, err := w.cache.Fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := w.cache.Watch(revisions[10])
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]string{}
	for _, r := range revisions {
		want[r] = w.at(r)
	}
	if n := w.cache.Pack(time.Now()); n != 0 {
		t.Errorf("packed %d objects right after a write", n)
	}
	rest := time.Now().Add(packAfter)
	if n := w.cache.Pack(rest); n < 60 {
		t.Errorf("packed %d objects", n)
	}
	if n := w.cache.Pack(rest); n != 0 {
		t.Errorf("packed %d objects again", n)
	}
	now := w.cache.Newest()
	if a, b := old.Get(w.kind.Key("ns", "o01")), now.Get(w.kind.Key("ns", "o01")); a == b || a.Object == b.Object || a.Revision != b.Revision {
		t.Error("the object was not replaced")
	}
	if now.Revision != old.Revision || content(now) != content(old) {
		t.Error("the state changed")
	}
	for _, r := range revisions {
		if got := w.at(r); got != want[r] {
			t.Errorf("at %d there is something else", r)
		}
	}
	last := w.put("o01", "new")
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	events, err := watcher.Next(t.Context())
	if err != nil || len(events) != len(revisions)-11+1 || events[len(events)-1].Revision != last {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, e := range events[:len(events)-1] {
		if e.Revision != revisions[11+i] || e.Entry.Revision != e.Revision || e.Deleted != (i == len(events)-2) ||
			(e.Prev != nil) != (11+i >= 60) {
			t.Errorf("event %d is %+v", i, e)
		}
	}
}

// Objects that are packed while others write are as written last.
func TestPackBesideWriters(t *testing.T) {
	w := newWorld(t)
	large := strings.Repeat("x", 48<<10)
	for i := range 100 {
		w.put(fmt.Sprint("o", i), "0"+large)
	}
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 100 {
			w.put(fmt.Sprint("o", i), "1")
		}
	})
	for range 20 {
		w.cache.Pack(time.Now().Add(packAfter))
	}
	wg.Wait()
	s, err := w.cache.Fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := content(s); strings.Contains(got, "=0x") || strings.Count(got, "=1") != 100 {
		t.Errorf("%d objects, %d as written last", s.Len(), strings.Count(got, "=1"))
	}
}

// A subscriber is told nothing when objects are packed, and everything after that.
func TestPackBesideSubscribers(t *testing.T) {
	w := newWorld(t)
	for i := range 64 {
		w.put(fmt.Sprint("o", i), strings.Repeat("x", 48<<10))
	}
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	synced, told := make(chan struct{}), make(chan string, 100)
	go func() {
		_ = w.cache.View(w.kind, nil).Subscribe(ctx, func(obj, old resource.Object) {
			told <- obj.(*corev1.ConfigMap).Name
		}, func() { close(synced) })
	}()
	<-synced
	for range 65 {
		<-told
	}
	if w.cache.Pack(time.Now().Add(packAfter)) == 0 {
		t.Error("nothing was packed")
	}
	w.put("o1", "new")
	if got := <-told; got != "o1" {
		t.Errorf("told of %s", got)
	}
}
