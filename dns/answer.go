// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"math/rand/v2"
	"strings"

	"github.com/miekg/dns"
)

// maxAliases is how many aliases are followed for one question.
const maxAliases = 8

// answer answers a question. It waits for upstreams if asksUpstream says so.
func (s *Server) answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return failure(q, dns.RcodeNotImplemented)
	case len(q.Question) != 1:
		return failure(q, dns.RcodeFormatError)
	}
	question := q.Question[0]
	if question.Qclass != dns.ClassINET || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR {
		return failure(q, dns.RcodeRefused)
	}
	name := dns.CanonicalName(question.Name)
	m := new(dns.Msg)
	if origin := s.origin(name); origin != "" {
		m.SetReply(q)
		m.Authoritative, m.RecursionAvailable = true, true
		s.local(ctx, m, origin, name)
		return m
	}
	o := q.IsEdns0()
	reply, err := s.forward.ask(ctx, question, o != nil && o.Do(), q.CheckingDisabled)
	if err != nil {
		return failure(q, codeOf(err))
	}
	m.SetRcode(q, reply.Rcode)
	m.RecursionAvailable, m.AuthenticatedData = true, reply.AuthenticatedData
	m.Answer, m.Ns, m.Extra = reply.Answer, reply.Ns, reply.Extra
	return m
}

// origin is the zone that answers for a name, or empty if upstreams do.
func (s *Server) origin(name string) string {
	if strings.HasSuffix(name, s.zone.domain) && (len(name) == len(s.zone.domain) || name[len(name)-len(s.zone.domain)-1] == '.') {
		return s.zone.domain
	}
	ip, ok := unreverse(name)
	if !ok {
		return ""
	}
	if _, known := s.zone.lookup(name); known {
		return "in-addr.arpa."
	}
	for _, r := range s.config.Ranges {
		if r.Contains(ip) {
			return "in-addr.arpa."
		}
	}
	return ""
}

// asksUpstream tells whether an answer may take as long as an upstream does.
func (s *Server) asksUpstream(q *dns.Msg) bool {
	if len(q.Question) != 1 {
		return false
	}
	name := dns.CanonicalName(q.Question[0].Name)
	if s.origin(name) == "" {
		return true
	}
	r, _ := s.zone.lookup(name)
	return r.cname != ""
}

// local answers for the cluster: a name that does not exist is NXDOMAIN; one that has nothing of the type is an empty answer; both carry the
// SOA record, whose last field says how long to remember that.
func (s *Server) local(ctx context.Context, m *dns.Msg, origin, name string) {
	question := m.Question[0]
	r, exists := s.zone.lookup(name)
	if !exists {
		m.Rcode = dns.RcodeNameError
		m.Ns = append(m.Ns, s.soa(origin))
		return
	}
	if r.cname != "" {
		s.alias(ctx, m, r.cname)
		return
	}
	s.fill(m, origin, question.Name, name, r)
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, s.soa(origin))
	}
}

// fill adds the records of the type that was asked for.
func (s *Server) fill(m *dns.Msg, origin, owner, name string, r records) {
	header := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: owner, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
	}
	switch m.Question[0].Qtype {
	case dns.TypeA:
		first := start(len(r.a))
		for i := range r.a {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(dns.TypeA), A: r.a[(first+i)%len(r.a)].AsSlice()})
		}
	case dns.TypeSRV:
		first := start(len(r.srv))
		for i := range r.srv {
			t := r.srv[(first+i)%len(r.srv)]
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(dns.TypeSRV), Weight: uint16(max(1, 100/len(r.srv))), Port: t.port, Target: t.name})
			to, _ := s.zone.lookup(t.name)
			for _, ip := range to.a {
				h := header(dns.TypeA)
				h.Name = t.name
				m.Extra = append(m.Extra, &dns.A{Hdr: h, A: ip.AsSlice()})
			}
		}
	case dns.TypePTR:
		for _, p := range r.ptr {
			m.Answer = append(m.Answer, &dns.PTR{Hdr: header(dns.TypePTR), Ptr: p})
		}
	case dns.TypeTXT:
		if len(r.txt) > 0 {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: header(dns.TypeTXT), Txt: r.txt})
		}
	case dns.TypeSOA:
		if name == origin {
			m.Answer = append(m.Answer, s.soa(origin))
		}
	case dns.TypeNS:
		if name == origin {
			m.Answer = append(m.Answer, &dns.NS{Hdr: header(dns.TypeNS), Ns: s.server()})
		}
	case dns.TypeANY: // RFC 8482: everything is not an answer
		m.Answer = append(m.Answer, &dns.HINFO{Hdr: header(dns.TypeHINFO), Cpu: "RFC8482"})
	}
}

// start is where the list of an answer starts: askers that take the first spread over all.
func start(n int) int {
	if n < 2 {
		return 0
	}
	return rand.IntN(n)
}

// alias answers with an alias and, as askers expect, with what it leads to.
func (s *Server) alias(ctx context.Context, m *dns.Msg, target string) {
	owner, kind := m.Question[0].Name, m.Question[0].Qtype
	for range maxAliases {
		m.Answer = append(m.Answer, &dns.CNAME{
			Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl}, Target: target,
		})
		if kind == dns.TypeCNAME || kind == dns.TypeANY {
			return
		}
		origin := s.origin(target)
		if origin == "" {
			s.outside(ctx, m, dns.Question{Name: target, Qtype: kind, Qclass: dns.ClassINET})
			return
		}
		r, exists := s.zone.lookup(target)
		switch {
		case !exists:
			m.Rcode = dns.RcodeNameError
			m.Ns = append(m.Ns, s.soa(origin))
			return
		case r.cname == "":
			before := len(m.Answer)
			if s.fill(m, origin, target, target, r); len(m.Answer) == before {
				m.Ns = append(m.Ns, s.soa(origin))
			}
			return
		}
		owner, target = target, r.cname
	}
	m.Rcode = dns.RcodeServerFailure // aliases in a circle
}

// outside adds what upstreams say about the target of an alias.
func (s *Server) outside(ctx context.Context, m *dns.Msg, q dns.Question) {
	reply, err := s.forward.ask(ctx, q, false, false)
	if err != nil {
		if code := codeOf(err); code != dns.RcodeRefused { // without upstreams, the alias is all that can be said
			m.Rcode = code
		}
		return
	}
	m.Rcode = reply.Rcode
	m.Answer = append(m.Answer, reply.Answer...)
	m.Ns = append(m.Ns, reply.Ns...)
}

// soa is the record of a zone that says for how long to remember that something is not there.
func (s *Server) soa(origin string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  s.server(), Mbox: "hostmaster." + s.zone.domain, Serial: s.zone.serial.Load(),
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// server is the name of the cluster's DNS server; see Publish.
func (s *Server) server() string {
	return ServiceName + "." + ServiceNamespace + ".svc." + s.zone.domain
}
