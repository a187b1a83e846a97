// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/store"
	"knarr.dev/store/pebble"
)

// world is a cache over a store in memory.
type world struct {
	t     *testing.T
	kind  *resource.Kind
	store store.Store
	cache *Cache
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kind := resource.Define(resource.Definition[corev1.ConfigMap]{
		Version: "v1", Kind: "ConfigMap", Resource: "configmaps", Scope: resource.Namespaced,
	}).Kind
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, kind: kind, store: st, cache: New(Config{Kind: kind, Store: st, Log: slog.New(slog.DiscardHandler)})}
	w.put("before", "0")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.cache.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	<-w.cache.Ready()
	return w
}

// put writes an object and returns the revision of the write; an empty value deletes it.
func (w *world) put(name, value string) int64 {
	w.t.Helper()
	op := store.Op{Key: w.kind.Key("ns", name), Expect: store.Any}
	if value != "" {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Data: map[string]string{"v": value}}
		var err error
		if op.Value, err = codec.EncodeStored(w.kind, obj); err != nil {
			w.t.Fatal(err)
		}
		op.Attachment = NewWritten(w.kind, obj)
	}
	rec, err := w.store.Write(w.t.Context(), op)
	if err != nil {
		w.t.Fatal(err)
	}
	w.cache.Wrote(rec.Modified)
	return rec.Modified
}

func content(s *Snapshot) string {
	var out []string
	s.Range("", "", func(e *Entry) bool {
		out = append(out, e.Object.GetName()+"="+e.Object.(*corev1.ConfigMap).Data["v"])
		return true
	})
	return strings.Join(out, " ")
}

func (w *world) at(revision int64) string {
	w.t.Helper()
	s, err := w.cache.At(revision)
	if err != nil {
		w.t.Fatal(err)
	}
	return content(s)
}

func TestSnapshotsOfEveryRevision(t *testing.T) {
	w := newWorld(t)
	one := w.put("a", "1")
	two := w.put("a", "2")
	three := w.put("b", "3")
	four := w.put("a", "")
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for revision, want := range map[int64]string{
		one: "a=1 before=0", two: "a=2 before=0", three: "a=2 b=3 before=0", four: "b=3 before=0",
	} {
		if got := w.at(revision); got != want {
			t.Errorf("at %d: %q, want %q", revision, got, want)
		}
	}
	if _, err := w.cache.At(one - 2); !errors.Is(err, ErrGone) {
		t.Errorf("before the history: %v", err)
	}
}

func TestFreshShowsWritesOfOthersAndTheirRevision(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		// Another kind, and a write that this cache is not told of.
		if _, err := w.store.Write(t.Context(), store.Op{Key: "/registry/other/x", Value: []byte("x"), Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "ns"}, Data: map[string]string{"v": fmt.Sprint(i)}}
		value, err := codec.EncodeStored(w.kind, obj)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Write(t.Context(), store.Op{Key: w.kind.Key("ns", "a"), Value: value, Expect: store.Any}); err != nil {
			t.Fatal(err)
		}
		rec, err := w.store.Write(t.Context(), store.Op{Key: "/registry/other/x", Value: []byte("y"), Expect: store.Any})
		if err != nil {
			t.Fatal(err)
		}
		s, err := w.cache.Fresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("a=%d before=0", i); content(s) != want || s.Revision < rec.Modified {
			t.Fatalf("%q at %d, want %q at %d", content(s), s.Revision, want, rec.Modified)
		}
	}
}

func TestWatchersSeeEachChangeOnceInOrder(t *testing.T) {
	w := newWorld(t)
	start := w.cache.Newest().Revision
	var want []int64
	for i := range 2 * batch {
		want = append(want, w.put(fmt.Sprintf("m%d", i%7), fmt.Sprint(i)))
	}
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, skip := range []int{0, 1, batch, 2*batch - 1} {
		after := start
		if skip > 0 {
			after = want[skip-1]
		}
		watcher, err := w.cache.Watch(after)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for len(got) < len(want)-skip {
			events, err := watcher.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				got = append(got, e.Revision)
			}
		}
		if !slices.Equal(got, want[skip:]) {
			t.Errorf("after %d: other events than the writes", after)
		}
	}
}

func TestSlowWatcherIsCutOffAndHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	watcher, err := w.cache.Watch(w.cache.Newest().Revision)
	if err != nil {
		t.Fatal(err)
	}
	w.put("a", "1")
	w.put("a", "2")
	if _, err := w.cache.Fresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.cache.mu.Lock() // as if the history had moved on
	w.cache.first += uint64(len(w.cache.history))
	w.cache.history, w.cache.times = nil, nil
	w.cache.mu.Unlock()
	if _, err := watcher.Next(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("a watcher behind the history: %v", err)
	}
}

func TestEncodingsAndObjectsAreShared(t *testing.T) {
	w := newWorld(t)
	w.put("a", "1")
	s, err := w.cache.Fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := s.Get(w.kind.Key("ns", "a"))
	first, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.JSON()
	if err != nil || &first[0] != &again[0] {
		t.Errorf("the second reader gets another encoding: %v", err)
	}
	if !strings.Contains(string(first), fmt.Sprintf(`"resourceVersion":"%d"`, e.Revision)) {
		t.Errorf("encoding without its revision: %s", first)
	}
}

func TestResumeFromTheStore(t *testing.T) {
	w := newWorld(t)
	one := w.put("a", "1")
	w.put("a", "2")
	w.put("b", "3")
	w.put("a", "")
	late := New(Config{Kind: w.kind, Store: w.store, Log: slog.New(slog.DiscardHandler)}) // as after a restart
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = late.Run(ctx)
	}()
	<-late.Ready()
	if _, err := late.Watch(one); !errors.Is(err, ErrGone) {
		t.Fatalf("the history of a new cache reaches back: %v", err)
	}
	resumption, err := late.Resume(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer resumption.Close()
	var watcher *Watcher
	var missed []*Event
	for watcher == nil {
		var some []*Event
		if some, watcher, err = resumption.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		missed = append(missed, some...)
	}
	w.put("c", "4")
	next, err := watcher.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range append(missed, next...) {
		text := e.Entry.Object.GetName() + "=" + e.Entry.Object.(*corev1.ConfigMap).Data["v"]
		if e.Deleted {
			text = "-" + text
		}
		if e.Prev != nil {
			text += "<" + e.Prev.Object.(*corev1.ConfigMap).Data["v"]
		}
		got = append(got, text)
	}
	if want := []string{"a=2<1", "b=3", "-a=2<2", "c=4"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	cancel()
	<-done
}
