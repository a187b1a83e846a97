// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/coordination"
	"knarr.dev/api/resource"
	"knarr.dev/store/pebble"
)

// identities starts a server that holds no Lease by itself.
func identities(t *testing.T) *Server {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{
		Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), AdvertiseIP: netip.MustParseAddr("192.0.2.1"), AdvertisePort: 6443,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		_ = st.Close()
	})
	return s
}

func TestServersHoldLeases(t *testing.T) {
	s := identities(t)
	first, again := s.identity("one"), s.identity("one")
	if first.Name != again.Name || *first.Spec.HolderIdentity == *again.Spec.HolderIdentity || len(first.Name) != len("apiserver-")+26 {
		t.Errorf("names %s and %s, holders %s and %s", first.Name, again.Name, *first.Spec.HolderIdentity, *again.Spec.HolderIdentity)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	read := func() *coordinationv1.Lease {
		o, err := s.objects().Get(t.Context(), coordination.Leases.Kind, identityNamespace, first.Name)
		if err != nil {
			t.Fatal(err)
		}
		return coordination.Leases.Cast(o)
	}
	for i, l := range []*coordinationv1.Lease{first, first, again} {
		at := start.Add(time.Duration(i) * time.Minute)
		if err := s.renewIdentity(t.Context(), l, at); err != nil {
			t.Fatal(err)
		}
		got := read()
		if !got.Spec.RenewTime.Time.Equal(at) || *got.Spec.HolderIdentity != *l.Spec.HolderIdentity || *got.Spec.LeaseDurationSeconds != 3600 ||
			got.Labels[identityLabel] != identityValue || got.Labels["kubernetes.io/hostname"] != "one" || got.Annotations[identityPeer] != "192.0.2.1:6443" {
			t.Errorf("renewed at %v: %+v", at, got)
		}
	}
}

func TestExpiredLeasesOfServersGo(t *testing.T) {
	s := identities(t)
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	hour := int32(3600)
	for name, l := range map[string]struct {
		label string
		age   time.Duration
	}{
		"apiserver-lives":   {identityValue, 59 * time.Minute},
		"apiserver-expired": {identityValue, 61 * time.Minute},
		"other":             {"something", 61 * time.Minute},
		"apiserver-never":   {identityValue, -1},
	} {
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: identityNamespace, Name: name, Labels: map[string]string{identityLabel: l.label}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &hour},
		}
		if l.age >= 0 {
			renewed := metav1.NewMicroTime(now.Add(-l.age))
			lease.Spec.RenewTime = &renewed
		}
		if _, err := s.objects().Do(t.Context(), &call.Request{Verb: "create", Kind: coordination.Leases.Kind, Namespace: identityNamespace, Object: lease}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sweepIdentities(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := s.objects().List(t.Context(), coordination.Leases.Kind, identityNamespace, func(o resource.Object) bool {
		left = append(left, o.GetName())
		return true
	})
	if err != nil || !slices.Equal(left, []string{"apiserver-lives", "other"}) {
		t.Errorf("left are %v, %v", left, err)
	}
}
