// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/store"
	"knarr.dev/store/pebble"
)

func open(t *testing.T, first int64) store.Store {
	t.Helper()
	s, err := pebble.Open("db", pebble.Options{FS: vfs.NewMem(), First: first})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s store.Store, key, value string, ttl time.Duration) {
	t.Helper()
	if _, err := s.Write(t.Context(), store.Op{Key: key, Value: []byte(value), Expect: store.Any, TTL: ttl}); err != nil {
		t.Fatal(err)
	}
}

// content shows all records of a store.
func content(t *testing.T, s store.Store) string {
	t.Helper()
	page, err := s.Read(t.Context(), store.Query{Key: "/registry/", Prefix: true})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range page.Records {
		fmt.Fprintf(&out, "%s=%d bytes, expires %v\n", r.Key, len(r.Value), r.Expires)
	}
	return out.String()
}

// busy is a store that is written to whenever it is read.
type busy struct {
	store.Store
	t *testing.T
	n int
}

func (b *busy) Read(ctx context.Context, q store.Query) (store.Page, error) {
	page, err := b.Store.Read(ctx, q)
	b.n++
	put(b.t, b.Store, fmt.Sprintf("/registry/new/%d", b.n), "x", 0)
	put(b.t, b.Store, "/registry/pods/0999", "changed", 0)
	return page, err
}

func TestRoundTrip(t *testing.T) {
	from := open(t, 0)
	for i := range 1200 {
		put(t, from, fmt.Sprintf("/registry/pods/%04d", i), strings.Repeat("v", i*3), 0)
	}
	put(t, from, "/registry/empty", "", 0)
	put(t, from, "/registry/events/soon", "x", time.Hour)
	put(t, from, "/registry/events/over", "x", time.Minute)
	put(t, from, "/other", "x", 0)
	want := strings.ReplaceAll(content(t, from), "\n/registry/events/over", "\n-/registry/events/over")
	var file bytes.Buffer
	made, err := Write(t.Context(), &busy{Store: from, t: t}, "/registry/", time.Now(), &file)
	if err != nil || made.Records != 1203 {
		t.Fatalf("%+v, %v", made, err)
	}
	if seen, err := Verify(bytes.NewReader(file.Bytes())); err != nil || seen != made {
		t.Fatalf("verified %+v, %v, made %+v", seen, err, made)
	}
	to := open(t, made.Revision)
	later := func() time.Time { return time.Now().Add(30 * time.Minute) }
	if _, err := Restore(t.Context(), bytes.NewReader(file.Bytes()), to, later); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(content(t, to)) {
		got = append(got, strings.Split(line, ", expires")[0])
	}
	var wanted []string
	for line := range strings.Lines(want) {
		if !strings.HasPrefix(line, "-") {
			wanted = append(wanted, strings.Split(line, ", expires")[0])
		}
	}
	if strings.Join(got, "\n") != strings.Join(wanted, "\n") {
		t.Errorf("restored %d records, want %d", len(got), len(wanted))
	}
	page, err := to.Read(t.Context(), store.Query{Key: "/registry/events/soon", Expiry: true})
	if err != nil || len(page.Records) != 1 || page.Records[0].Expires == 0 || page.Revision <= made.Revision {
		t.Errorf("%+v, %v", page, err)
	}
	if _, err := Restore(t.Context(), bytes.NewReader(file.Bytes()), to, time.Now); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("restored again: %v", err)
	}
}

// TestDamage changes, cuts off and adds to a backup: none of that may go unseen.
func TestDamage(t *testing.T) {
	from := open(t, 0)
	for i := range 50 {
		put(t, from, fmt.Sprintf("/registry/%d", i), strings.Repeat(fmt.Sprint(i), 50), 0)
	}
	var file bytes.Buffer
	if _, err := Write(t.Context(), from, "/registry/", time.Now(), &file); err != nil {
		t.Fatal(err)
	}
	good := file.Bytes()
	for n := range good {
		if _, err := Verify(bytes.NewReader(good[:n])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut off at %d: %v", n, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		bad, at := bytes.Clone(good), random.IntN(len(good))
		bad[at] ^= byte(1 + random.IntN(255))
		if _, err := Verify(bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("changed at %d (seed %d): %v", at, seed, err)
		}
	}
	if _, err := Verify(bytes.NewReader(append(bytes.Clone(good), 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("with more after the end: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Verify(bytes.NewReader(b)); err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
		_, _ = records(b, func(store.Record) error { return nil })
	})
}
