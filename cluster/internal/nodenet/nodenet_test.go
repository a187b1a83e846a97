// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nodenet

import (
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestNodesReachEachOtherAndGoAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	p := Plan{
		ID: ID(t.TempDir()), RunDir: t.TempDir(),
		Nodes: netip.MustParsePrefix("10.251.0.0/24"), Pods: netip.MustParsePrefix("10.252.0.0/16"),
		Namespaced: []Node{
			{Name: "a", Address: netip.MustParseAddr("10.251.0.11"), Pods: netip.MustParsePrefix("10.252.0.0/24")},
			{Name: "b", Address: netip.MustParseAddr("10.251.0.12"), Pods: netip.MustParsePrefix("10.252.1.0/24")},
		},
	}
	t.Cleanup(func() { p.Down() })
	for range 2 { // repeating changes nothing
		if err := p.Up(); err != nil {
			t.Fatal(err)
		}
	}
	other := p
	other.ID, other.Namespaced = ID("another"), nil
	if err := other.Up(); err == nil || !strings.Contains(err.Error(), "link knarr-"+p.ID+" has 10.251.0.1/24") {
		t.Errorf("another cluster with the same addresses: %v", err)
	}
	if err := Free(other.ID, map[string]netip.Prefix{"pod": p.Nodes}); err == nil || !strings.Contains(err.Error(), "pod addresses 10.251.0.0/24") {
		t.Errorf("an agent with the same addresses: %v", err)
	}
	l, err := Listen(p.Path(p.Namespaced[1]), "10.251.0.12:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
	ask := func() (string, error) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return "", err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		return string(b), err
	}
	if got, err := ask(); err != nil || got != "10.251.0.1" {
		t.Fatalf("from the machine: %q, %v", got, err)
	}
	var got string
	if err := Inside(p.Path(p.Namespaced[0]), func() (err error) { got, err = ask(); return err }); err != nil || got != "10.251.0.11" {
		t.Fatalf("from node a: %q, %v", got, err)
	}
	if err := p.Down(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(p.Bridge()); err == nil {
		t.Fatal("the bridge is still there")
	}
}

func TestRoutesFollowWhatIsWanted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	p := Plan{
		ID: ID(t.TempDir()), RunDir: t.TempDir(),
		Nodes: netip.MustParsePrefix("10.251.1.0/24"), Pods: netip.MustParsePrefix("10.252.0.0/16"),
		Namespaced: []Node{{Name: "a", Address: netip.MustParseAddr("10.251.1.11"), Pods: netip.MustParsePrefix("10.252.0.0/24")}},
	}
	t.Cleanup(func() { p.Down() })
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	one, two := netip.MustParsePrefix("10.252.7.0/24"), netip.MustParsePrefix("10.252.8.0/24")
	via, other := netip.MustParseAddr("10.251.1.21"), netip.MustParseAddr("10.251.1.22")
	elsewhere := netip.MustParsePrefix("10.253.1.0/24") // another cluster's, which must stay
	for _, want := range []map[netip.Prefix]netip.Addr{
		{elsewhere: via},
		{one: via, two: via},
		{one: other},
		{},
	} {
		err := Inside(p.Path(p.Namespaced[0]), func() error {
			within := p.Pods
			if _, ok := want[elsewhere]; ok {
				within = netip.MustParsePrefix("10.253.0.0/16")
			}
			if err := Routes(within, want); err != nil {
				return err
			}
			list, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			got := map[netip.Prefix]netip.Addr{}
			for _, r := range list {
				if r.Protocol == routeProtocol {
					gw, _ := netip.AddrFromSlice(r.Gw)
					got[netip.MustParsePrefix(r.Dst.String())] = gw.Unmap()
				}
			}
			full := maps.Clone(want)
			full[elsewhere] = via
			if !maps.Equal(got, full) {
				t.Errorf("got %v, want %v", got, full)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
