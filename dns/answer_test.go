// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testServer knows a few Services; it is not listening.
func testServer(upstreams ...netip.AddrPort) *Server {
	s := New(Config{
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}, Upstreams: upstreams,
	}, nil, slog.New(slog.DiscardHandler))
	s.zone.namespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, nil)
	for _, text := range []string{
		"web 10.43.0.7 http=80/TCP", "db None", "empty None", "many None", "self ->self.ns.svc.cluster.local",
		"alias ->web.ns.svc.cluster.local", "dangling ->no.ns.svc.cluster.local", "out ->Host.Example.com",
	} {
		s.zone.service(testService(text), nil)
	}
	s.zone.slice(testSlice("db-1", "db sql=5432/TCP b-0@10.42.0.1 b-1@10.42.0.2"), nil)
	many := "many http=80/TCP"
	for i := range 200 {
		many += fmt.Sprintf(" 10.42.9.%d", i)
	}
	s.zone.slice(testSlice("many-1", many), nil)
	return s
}

// show is an answer in one line: the code, the answers, then which other sections have what.
func show(m *dns.Msg) string {
	var answers []string
	for _, rr := range m.Answer {
		answers = append(answers, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().Name)), " "))
	}
	slices.Sort(answers)
	out := dns.RcodeToString[m.Rcode]
	if len(answers) > 0 {
		out += " " + strings.Join(answers, ", ")
	}
	for _, rr := range m.Ns {
		out += " ns:" + rr.Header().Name + dns.TypeToString[rr.Header().Rrtype]
	}
	for _, rr := range m.Extra {
		if a, ok := rr.(*dns.A); ok {
			out += " extra:" + a.Hdr.Name + a.A.String()
		}
	}
	return out
}

func ask(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(dns.Fqdn(name), kind) }

const nothing = " ns:cluster.local.SOA"

func TestAnswers(t *testing.T) {
	s := testServer()
	for _, c := range []struct{ kind, name, want string }{
		{"A", "web.ns.svc.cluster.local", "NOERROR 5 IN A 10.43.0.7"},
		{"A", "WEB.ns.Svc.cluster.LOCAL", "NOERROR 5 IN A 10.43.0.7"},
		{"AAAA", "web.ns.svc.cluster.local", "NOERROR" + nothing},
		{"A", "no.ns.svc.cluster.local", "NXDOMAIN" + nothing},
		{"A", "web.no.svc.cluster.local", "NXDOMAIN" + nothing},
		{"A", "ns.svc.cluster.local", "NOERROR" + nothing},
		{"A", "no.svc.cluster.local", "NXDOMAIN" + nothing},
		{"A", "svc.cluster.local", "NOERROR" + nothing},
		{"A", "example.com.ns.svc.cluster.local", "NXDOMAIN" + nothing},
		{"A", "_tcp.web.ns.svc.cluster.local", "NOERROR" + nothing},
		{"SRV", "_http._tcp.web.ns.svc.cluster.local", "NOERROR 5 IN SRV 0 100 80 web.ns.svc.cluster.local. extra:web.ns.svc.cluster.local.10.43.0.7"},
		{"A", "_http._tcp.web.ns.svc.cluster.local", "NOERROR" + nothing},
		{"SRV", "_no._tcp.web.ns.svc.cluster.local", "NXDOMAIN" + nothing},
		{"PTR", "7.0.43.10.in-addr.arpa", "NOERROR 5 IN PTR web.ns.svc.cluster.local."},
		{"PTR", "8.0.43.10.in-addr.arpa", "NXDOMAIN ns:in-addr.arpa.SOA"},
		{"PTR", "8.8.8.8.in-addr.arpa", "REFUSED"},
		{"A", "db.ns.svc.cluster.local", "NOERROR 5 IN A 10.42.0.1, 5 IN A 10.42.0.2"},
		{"A", "b-1.db.ns.svc.cluster.local", "NOERROR 5 IN A 10.42.0.2"},
		{"PTR", "2.0.42.10.in-addr.arpa", "NOERROR 5 IN PTR b-1.db.ns.svc.cluster.local."},
		{"A", "empty.ns.svc.cluster.local", "NXDOMAIN" + nothing},
		{"A", "10-42-7-8.ns.pod.cluster.local", "NOERROR 5 IN A 10.42.7.8"},
		{"AAAA", "10-42-7-8.ns.pod.cluster.local", "NOERROR" + nothing},
		{"A", "10-42-7-8.no.pod.cluster.local", "NXDOMAIN" + nothing},
		{"A", "10-42-7.ns.pod.cluster.local", "NXDOMAIN" + nothing},
		{"A", "10-42-7-888.ns.pod.cluster.local", "NXDOMAIN" + nothing},
		{"A", "10.42.7-8.ns.pod.cluster.local", "NXDOMAIN" + nothing},
		{"TXT", "dns-version.cluster.local", `NOERROR 5 IN TXT "1.1.0"`},
		{"NS", "cluster.local", "NOERROR 5 IN NS kube-dns.kube-system.svc.cluster.local."},
		{"ANY", "web.ns.svc.cluster.local", `NOERROR 5 IN HINFO "RFC8482" ""`},
		{"CNAME", "out.ns.svc.cluster.local", "NOERROR 5 IN CNAME host.example.com."},
		{"A", "out.ns.svc.cluster.local", "NOERROR 5 IN CNAME host.example.com."},
		{"A", "alias.ns.svc.cluster.local", "NOERROR 5 IN A 10.43.0.7, 5 IN CNAME web.ns.svc.cluster.local."},
		{"A", "dangling.ns.svc.cluster.local", "NXDOMAIN 5 IN CNAME no.ns.svc.cluster.local." + nothing},
		{"A", "example.com", "REFUSED"},
		{"A", "notcluster.local", "REFUSED"},
		{"AXFR", "cluster.local", "REFUSED"},
	} {
		q := ask(c.name, dns.StringToType[c.kind])
		if got := show(s.answer(t.Context(), q)); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.kind, c.name, got, c.want)
		}
		quickAgrees(t, s, q)
		q.SetEdns0(4096, true)
		quickAgrees(t, s, q)
	}
	if m := s.answer(t.Context(), ask("self.ns.svc.cluster.local", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("aliases in a circle: %s", show(m))
	}
}

// quickAgrees checks that the short way, if it answers at all, says what the long way says.
func quickAgrees(t *testing.T, s *Server, q *dns.Msg) {
	t.Helper()
	query, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	short, ok := s.quick(query, nil)
	if !ok {
		return
	}
	long := finish(q, s.answer(t.Context(), q), sizeOf(q))
	var a, b dns.Msg
	if err := a.Unpack(short); err != nil {
		t.Fatalf("%s: %v", q.Question[0].Name, err)
	}
	if err := b.Unpack(long); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*dns.Msg{&a, &b} { // in another order and, as part of the question, in other letters
		slices.SortFunc(m.Answer, func(a, b dns.RR) int { return strings.Compare(a.String(), b.String()) })
	}
	if !strings.EqualFold(a.String(), b.String()) {
		t.Errorf("quick says\n%v\nanswer says\n%v", &a, &b)
	}
}

func TestQuickAnswersMostQuestions(t *testing.T) {
	s := testServer()
	for _, name := range []string{"web.ns.svc.cluster.local", "db.ns.svc.cluster.local", "example.com.ns.svc.cluster.local"} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
			query, _ := ask(name, kind).Pack()
			if _, ok := s.quick(query, nil); !ok {
				t.Errorf("%s %s is not answered quickly", dns.TypeToString[kind], name)
			}
		}
	}
}

func FuzzQuick(f *testing.F) {
	s := testServer()
	for _, name := range []string{"web.ns.svc.cluster.local", "db.ns.svc.cluster.local", "x.cluster.local", "many.ns.svc.cluster.local"} {
		for _, edns := range []bool{false, true} {
			q := ask(name, dns.TypeA)
			if edns {
				q.SetEdns0(1232, true)
			}
			b, _ := q.Pack()
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, query []byte) {
		malformed(query)
		if _, ok := s.quick(query, nil); !ok {
			return
		}
		q := new(dns.Msg)
		if err := q.Unpack(query); err != nil {
			t.Fatalf("answered a question that makes no sense: %v", err)
		}
		quickAgrees(t, s, q)
	})
}

func TestLongAnswersAreCut(t *testing.T) {
	s := testServer()
	q := ask("many.ns.svc.cluster.local", dns.TypeA)
	for _, c := range []struct {
		edns uint16
		size int
		cut  bool
	}{{0, 512, true}, {4096, maxUDP, true}, {0, dns.MaxMsgSize, false}} {
		q.Extra = nil
		if c.edns != 0 {
			q.SetEdns0(c.edns, false)
		}
		size := sizeOf(q)
		if !c.cut {
			size = c.size
		}
		b := finish(q, s.answer(t.Context(), q), size)
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if len(b) > c.size || m.Truncated != c.cut || !c.cut && len(m.Answer) != 200 {
			t.Errorf("EDNS %d: %d bytes, cut %v, %d answers", c.edns, len(b), m.Truncated, len(m.Answer))
		}
	}
	q.Extra = nil
	q.SetEdns0(1232, false)
	q.IsEdns0().SetVersion(1)
	m := new(dns.Msg)
	if err := m.Unpack(finish(q, s.answer(t.Context(), q), sizeOf(q))); err != nil || m.Rcode != dns.RcodeBadVers || len(m.Answer) > 0 {
		t.Errorf("EDNS version 1: %v, %v", err, m)
	}
}

func TestNamesFollowTheirServices(t *testing.T) {
	s := testServer()
	a := func(name string) string { return show(s.answer(t.Context(), ask(name, dns.TypeA))) }
	before := len(s.zone.names.of)
	old, moved := testSlice("x-1", "db y@10.42.0.9"), testSlice("x-1", "many y@10.42.0.9")
	s.zone.slice(old, nil)
	if got := a("y.db.ns.svc.cluster.local"); got != "NOERROR 5 IN A 10.42.0.9" {
		t.Error(got)
	}
	s.zone.slice(moved, old)
	if got := a("y.db.ns.svc.cluster.local"); got != "NXDOMAIN"+nothing {
		t.Error(got)
	}
	second := testSlice("x-2", "db z@10.42.0.9")
	s.zone.slice(second, nil)
	both := "NOERROR 5 IN PTR y.many.ns.svc.cluster.local., 5 IN PTR z.db.ns.svc.cluster.local."
	if got := show(s.answer(t.Context(), ask("9.0.42.10.in-addr.arpa", dns.TypePTR))); got != both {
		t.Error(got)
	}
	s.zone.slice(nil, second)
	s.zone.slice(nil, moved)
	if after := len(s.zone.names.of); after != before {
		t.Errorf("%d names, before %d", after, before)
	}
	s.zone.service(nil, testService("web 10.43.0.7"))
	if got := a("web.ns.svc.cluster.local"); got != "NXDOMAIN"+nothing {
		t.Error(got)
	}
	s.zone.namespace(nil, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	if got := a("ns.svc.cluster.local"); got != "NXDOMAIN"+nothing {
		t.Error(got)
	}
}

func BenchmarkQuick(b *testing.B) {
	s := testServer()
	for _, name := range []string{"web.ns.svc.cluster.local", "example.com.ns.svc.cluster.local"} {
		query, _ := ask(name, dns.TypeA).Pack()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			out := make([]byte, 0, maxUDP)
			for b.Loop() {
				s.quick(query, out)
			}
		})
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := testServer()
	query, _ := ask("_sql._tcp.db.ns.svc.cluster.local", dns.TypeSRV).Pack()
	b.ReportAllocs()
	for b.Loop() {
		q := new(dns.Msg)
		q.Unpack(query)
		finish(q, s.answer(b.Context(), q), sizeOf(q))
	}
}
