// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"testing"

	"knarr.dev/cluster/internal/nodenet"
	"knarr.dev/proxy"
)

func TestLeft(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	if err := Clear(t.Context(), dir, log); !errors.Is(err, ErrNothingLeft) {
		t.Fatalf("without notes: %v", err)
	}
	pods := netip.MustParsePrefix("10.42.0.0/16")
	want := &left{
		Network: nodenet.Plan{ID: "abc", Nodes: netip.MustParsePrefix("10.44.0.0/24"), Pods: pods, RunDir: "/r",
			Namespaced: []nodenet.Node{{Name: "n", Address: netip.MustParseAddr("10.44.0.11"), Pods: pods}}},
		Pods:    pods,
		Proxies: []proxy.Config{{NodeName: "n", NodeIPs: []netip.Addr{loopback()}, ServiceCIDR: pods, PodCIDR: pods, NodeCIDR: pods, Table: "knarr-proxy-abc"}},
		Nodes:   []leftNode{{DataDir: "/d", NetNS: "/r/netns/n", PodCIDR: pods, Bridge: "kpabc-0"}},
	}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readLeft(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("read %+v, %v, want %+v", got, err, want)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Clear(t.Context(), dir, log); !errors.Is(err, errInUse) {
		t.Errorf("while it runs: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(leftFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Clear(t.Context(), dir, log); err == nil {
		t.Error("notes that cannot be read are no error")
	}
	if err := errors.Join(forgetLeft(dir), forgetLeft(dir)); err != nil {
		t.Error(err)
	}
}
