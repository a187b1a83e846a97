// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/api"
	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/store"
	"knarr.dev/store/pebble"
)

// TestEndpointsOfServersThatLive: default/kubernetes leads to the servers whose keys are there, and to no other.
func TestEndpointsOfServersThatLive(t *testing.T) {
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	start := func(address string) (*Server, func()) {
		s, err := New(Config{
			Store: st, Shared: true, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler),
			AdvertiseIP: netip.MustParseAddr(address), AdvertisePort: 6443,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-s.Ready()
		return s, func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	a, stopA := start("192.0.2.1")
	defer stopA()
	b, stopB := start("192.0.2.2")
	ctx := t.Context()
	stored := func(k *resource.Kind) resource.Object { // the caches may be a moment behind the other server
		page, err := st.Read(ctx, store.Query{Key: k.Key("default", "kubernetes")})
		if err != nil || len(page.Records) != 1 {
			t.Fatal(page, err)
		}
		o, err := codec.DecodeStored(k, page.Records[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	has := func() string {
		e, slice := stored(core.Endpoints.Kind), stored(discovery.EndpointSlices.Kind)
		var old, now []string
		for _, address := range core.Endpoints.Cast(e).Subsets[0].Addresses {
			old = append(old, address.IP)
		}
		for _, endpoint := range discovery.EndpointSlices.Cast(slice).Endpoints {
			now = append(now, endpoint.Addresses...)
		}
		return fmt.Sprint(old, now)
	}
	expect := func(when, want string) {
		t.Helper()
		got := ""
		for range 100 { // the servers renew by themselves too, as of what they saw a moment ago
			if err := a.liveEndpoints(ctx); err != nil {
				t.Fatal(err)
			}
			if got = has(); got == want+" "+want {
				return
			}
		}
		t.Errorf("%s: endpoints and slice %s, want %s", when, got, want)
	}
	if err := b.liveEndpoints(ctx); err != nil {
		t.Fatal(err)
	}
	expect("two servers", "[192.0.2.1 192.0.2.2]")
	stopB()
	expect("one stopped", "[192.0.2.1]")
	// One that vanished: its key ends by itself.
	if err := a.renewMaster(ctx, masterLeases+"192.0.2.3"); err != nil {
		t.Fatal(err)
	}
	expect("a third", "[192.0.2.1 192.0.2.3]")
	page, err := st.Read(ctx, store.Query{Key: masterLeases + "192.0.2.3", Expiry: true})
	if err != nil || len(page.Records) != 1 || page.Records[0].Expires == 0 {
		t.Fatalf("its key does not end by itself: %+v, %v", page, err)
	}
	if _, err := st.Write(ctx, store.Op{Key: masterLeases + "192.0.2.3", Expect: store.Any}); err != nil {
		t.Fatal(err)
	}
	expect("when its key has ended", "[192.0.2.1]")
	// An address of the other family is nobody's here.
	if err := a.renewMaster(ctx, masterLeases+"2001:db8::1"); err != nil {
		t.Fatal(err)
	}
	expect("another family", "[192.0.2.1]")
}
