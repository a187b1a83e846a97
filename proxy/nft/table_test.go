// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

type recorder struct {
	script string
	fronts int
	fail   error
}

func (r *recorder) Apply(_ context.Context, script string) error { r.script = script; return r.fail }
func (r *recorder) Forget(stale func(front, endpoint netip.AddrPort) bool) error {
	if stale(front, netip.AddrPortFrom(front.Addr(), 1)) && !stale(otherFront, front) {
		r.fronts++
	}
	return errors.New("not here")
}

var front, otherFront = netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("10.0.0.2:53")

func part(change func(*Part)) Part {
	p := NewPart()
	change(&p)
	return p
}

func TestOnlyTheDifferenceIsApplied(t *testing.T) {
	r := &recorder{}
	h := NewHost("t", r, slog.New(slog.DiscardHandler))
	web := part(func(p *Part) {
		p.Chains["c"] = []string{"drop"}
		p.Sets["s"] = "type ipv4_addr;"
		p.Elements[Element{"services", "10.0.0.1 . udp . 53"}] = "goto c"
		p.Elements[Element{"shared", "10.0.0.1"}] = ""
		p.Flows[Flow{front, netip.MustParseAddrPort("10.1.0.1:53")}] = true
	})
	other := part(func(p *Part) { p.Elements[Element{"shared", "10.0.0.1"}] = "" })
	steps := []struct {
		name   string
		parts  map[string]Part
		want   string
		fronts int
	}{
		{"new", map[string]Part{"web": web}, `add set ip t s { type ipv4_addr; }
add chain ip t c
add rule ip t c drop
add element ip t services { 10.0.0.1 . udp . 53 : goto c }
add element ip t shared { 10.0.0.1 }
`, 1},
		{"the same again", map[string]Part{"web": web}, "", 0},
		{"a second claim", map[string]Part{"other": other}, "", 0},
		{"new rules", map[string]Part{"web": part(func(p *Part) {
			p.Chains["c"] = []string{"accept"}
			p.Elements = web.Elements
			p.Flows[Flow{front, netip.MustParseAddrPort("10.1.0.2:53")}] = true
		})}, `flush chain ip t c
add rule ip t c accept
delete set ip t s
`, 1},
		{"gone, the other claim stands", map[string]Part{"web": NewPart()}, `delete element ip t services { 10.0.0.1 . udp . 53 : goto c }
flush chain ip t c
delete chain ip t c
`, 1},
		{"all gone", map[string]Part{"other": NewPart()}, "delete element ip t shared { 10.0.0.1 }\n", 0},
	}
	for _, s := range steps {
		r.script, r.fronts = "", 0
		if err := h.Update(t.Context(), s.parts); err != nil {
			t.Fatal(err)
		}
		if r.script != s.want || r.fronts != s.fronts {
			t.Errorf("%s: forgot %d fronts, applied\n%s\nwant\n%s", s.name, r.fronts, r.script, s.want)
		}
	}
	if len(h.state.parts)+len(h.state.claims) != 0 {
		t.Errorf("something is left: %v", h.state)
	}
}

func TestSyncReplacesTheTable(t *testing.T) {
	r := &recorder{fail: errors.New("no")}
	h := NewHost("t", r, slog.New(slog.DiscardHandler))
	table := Table{Base: "chain c { }\n", Parts: map[string]Part{"a": part(func(p *Part) { p.Chains["x"] = nil })}}
	if err := h.Sync(t.Context(), table); !errors.Is(err, r.fail) {
		t.Fatal(err)
	}
	r.fail = nil
	if err := h.Sync(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	if want := "table ip t\ndelete table ip t\ntable ip t {\nchain c { }\n}\nadd chain ip t x\n"; !strings.EqualFold(r.script, want) {
		t.Errorf("got %s", r.script)
	}
}
