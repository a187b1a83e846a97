// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"knarr.dev/api/resource"
)

// upstream answers from a table and remembers what it was asked.
type upstream struct {
	mu    sync.Mutex
	asked []string
	// says has lines of a zone file by question "NAME TYPE"; a line "RCODE" alone sets that, "tc" asks for TCP.
	says  map[string][]string
	delay time.Duration
	fail  map[string]bool // servers that are down
}

func (u *upstream) exchange(ctx context.Context, m *dns.Msg, network string, to netip.AddrPort) (*dns.Msg, error) {
	q := m.Question[0]
	u.mu.Lock()
	u.asked = append(u.asked, fmt.Sprintf("%s %s %s", to.Addr(), network, q.Name))
	u.mu.Unlock()
	select {
	case <-time.After(u.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if u.fail[to.Addr().String()] {
		return nil, errors.New("down")
	}
	reply := new(dns.Msg).SetReply(m)
	reply.SetEdns0(maxUDP, false)
	for _, line := range u.says[q.Name+" "+dns.TypeToString[q.Qtype]] {
		if code, ok := dns.StringToRcode[line]; ok {
			reply.Rcode = code
			continue
		}
		if line == "tc" {
			if reply.Truncated = network == "udp"; reply.Truncated {
				break
			}
			continue
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			return nil, err
		}
		if rr.Header().Rrtype == dns.TypeSOA {
			reply.Ns = append(reply.Ns, rr)
		} else {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	return reply, nil
}

func testForwarder(u *upstream) *forwarder {
	f := newForwarder([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")})
	f.exchange = u.exchange
	return f
}

const testSOA = "test. 60 IN SOA ns.test. host.test. 1 2 3 4 20"

func TestForwarding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{says: map[string][]string{
			"a.test. A":   {"a.test. 100 IN A 192.0.2.7"},
			"no.test. A":  {"NXDOMAIN", testSOA},
			"bad.test. A": {"SERVFAIL"},
			"big.test. A": {"tc", "big.test. 0 IN A 192.0.2.8"},
		}, fail: map[string]bool{}}
		s := testServer()
		s.forward = testForwarder(u)
		for _, step := range []struct {
			after      time.Duration
			down, name string
			want       string
			asked      []string
		}{
			{0, "", "A.test", "NOERROR 100 IN A 192.0.2.7", []string{"192.0.2.1 udp a.test."}},
			{40 * time.Second, "", "a.TEST", "NOERROR 60 IN A 192.0.2.7", nil}, // remembered, and older
			{60 * time.Second, "192.0.2.1", "a.test", "NOERROR 100 IN A 192.0.2.7", []string{"192.0.2.1 udp a.test.", "192.0.2.2 udp a.test."}},
			{0, "", "no.test", "NXDOMAIN ns:test.SOA", []string{"192.0.2.2 udp no.test."}}, // the one that answered last
			{19 * time.Second, "", "no.test", "NXDOMAIN ns:test.SOA", nil},
			{time.Second, "", "no.test", "NXDOMAIN ns:test.SOA", []string{"192.0.2.2 udp no.test."}},
			{0, "", "bad.test", "SERVFAIL", []string{"192.0.2.2 udp bad.test.", "192.0.2.1 udp bad.test."}},
			{0, "", "bad.test", "SERVFAIL", []string{"192.0.2.2 udp bad.test.", "192.0.2.1 udp bad.test."}},
			{0, "", "big.test", "NOERROR 0 IN A 192.0.2.8", []string{"192.0.2.2 udp big.test.", "192.0.2.2 tcp big.test."}},
			{0, "192.0.2.1 192.0.2.2", "b.test", "SERVFAIL", []string{"192.0.2.2 udp b.test.", "192.0.2.1 udp b.test.", "192.0.2.2 udp b.test.", "192.0.2.1 udp b.test."}},
		} {
			time.Sleep(step.after) // virtual
			clear(u.fail)
			for _, d := range strings.Fields(step.down) {
				u.fail[d] = true
			}
			u.asked = nil
			if got := show(s.answer(t.Context(), ask(step.name, dns.TypeA))); got != step.want {
				t.Errorf("%s: got %s, want %s", step.name, got, step.want)
			}
			if !slices.Equal(u.asked, step.asked) {
				t.Errorf("%s: asked %v, want %v", step.name, u.asked, step.asked)
			}
		}
	})
}

func TestExternalNamesLeadOutside(t *testing.T) {
	s := testServer()
	s.forward = testForwarder(&upstream{says: map[string][]string{"host.example.com. A": {"host.example.com. 9 IN A 192.0.2.7"}}})
	want := "NOERROR 5 IN CNAME host.example.com., 9 IN A 192.0.2.7"
	if got := show(s.answer(t.Context(), ask("out.ns.svc.cluster.local", dns.TypeA))); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// One question is asked once, however many ask it; that also ends loops between two servers.
func TestOneQuestionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{says: map[string][]string{"a.test. A": {"a.test. 100 IN A 192.0.2.7"}}, delay: time.Second}
		s := testServer()
		s.forward = testForwarder(u)
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if got := show(s.answer(t.Context(), ask("a.test", dns.TypeA))); got != "NOERROR 100 IN A 192.0.2.7" {
					t.Error(got)
				}
			})
		}
		group.Wait()
		if len(u.asked) != 1 {
			t.Errorf("asked %d times", len(u.asked))
		}
	})
}

func TestAnUpstreamThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testServer()
		s.forward = testForwarder(&upstream{delay: time.Hour})
		begin := time.Now()
		if got := show(s.answer(t.Context(), ask("a.test", dns.TypeA))); got != "SERVFAIL" {
			t.Error(got)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("took %s: who asked has given up", took)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	f := newForwarder(nil)
	now := time.Now()
	for i := range maxCached + 10 {
		m := ask(fmt.Sprintf("n%d.test", i), dns.TypeA)
		rr, _ := dns.NewRR(fmt.Sprintf("n%d.test. 100 IN A 192.0.2.7", i))
		m.Answer = []dns.RR{rr}
		f.remember(question{name: m.Question[0].Name}, m, now)
		f.remembered(question{name: "n0.test."}, now) // used all the time
	}
	if len(f.cached) != maxCached || f.recent.Len() != maxCached || f.remembered(question{name: "n0.test."}, now) == nil {
		t.Errorf("%d answers", len(f.cached))
	}
}

func TestUpstreamsThatAreTheClusterAreIgnored(t *testing.T) {
	s := testServer(netip.MustParseAddrPort("10.43.0.10:53"), netip.MustParseAddrPort("192.0.2.1:53"))
	if len(s.forward.upstreams) != 1 {
		t.Errorf("upstreams %v", s.forward.upstreams)
	}
}

func TestUpstreamsOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# none\nsearch a b\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Upstreams(file)
	if err != nil || fmt.Sprint(got) != "[192.0.2.1:53 [2001:db8::1]:53]" {
		t.Errorf("%v, %v", got, err)
	}
}

// The real thing: one server is the upstream of another, over UDP and, for what is too long, TCP.
func TestServersInARow(t *testing.T) {
	many := testSlice("many-1", "many 10.42.9.0")
	for i := range 60 {
		many.Endpoints = append(many.Endpoints, testSlice("", fmt.Sprintf("many 10.42.9.%d", i)).Endpoints...)
	}
	upper := run(t, Config{Domain: "upper"}, map[string]resource.Object{
		"services ns/web":          testService("web 10.43.0.7"),
		"services ns/many":         testService("many None"),
		"endpointslices ns/many-1": many,
	})
	lower := run(t, Config{Upstreams: []netip.AddrPort{netip.MustParseAddrPort(upper)}}, nil)
	for _, network := range []string{"udp", "tcp"} {
		if got := exchangeWith(t, network, lower, ask("web.ns.svc.upper", dns.TypeA)); got != "NOERROR 5 IN A 10.43.0.7" {
			t.Error(got)
		}
	}
	if got := exchangeWith(t, "udp", lower, ask("many.ns.svc.upper", dns.TypeA)); !strings.HasSuffix(got, "cut") {
		t.Error(got)
	}
	if got := exchangeWith(t, "tcp", lower, ask("many.ns.svc.upper", dns.TypeA)); strings.Count(got, "IN A") != 60 {
		t.Error(got)
	}
}
