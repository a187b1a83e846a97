// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"
)

// quick answers the questions that make up nearly all traffic, addresses of the cluster's names, without decoding the message: it
// returns false for all others, and for whatever is unusual about one. It says the same as Server.answer, which a test holds it to.
// reply is appended to out.
func (s *Server) quick(query, out []byte) (reply []byte, ok bool) {
	const header = 12
	if len(query) < header+5 || query[2]&^0x01 != 0 || query[3]&^0x20 != 0 || // a plain question, recursion desired or not
		binary.BigEndian.Uint16(query[4:]) != 1 || binary.BigEndian.Uint32(query[6:]) != 0 || binary.BigEndian.Uint16(query[10:]) > 1 {
		return nil, false
	}
	var text [256]byte
	name, at, ok := plainName(query[header:], text[:0])
	at += header
	if !ok || len(query) < at+4 || len(name) <= len(s.zone.domain) || string(name[len(name)-len(s.zone.domain):]) != s.zone.domain ||
		name[len(name)-len(s.zone.domain)-1] != '.' {
		return nil, false
	}
	kind := binary.BigEndian.Uint16(query[at:])
	if kind != dns.TypeA && kind != dns.TypeAAAA || binary.BigEndian.Uint16(query[at+2:]) != dns.ClassINET {
		return nil, false
	}
	at += 4
	size, edns, do := dns.MinMsgSize, query[11] == 1, false
	if edns {
		o := query[at:]
		if len(o) < 11 || o[0] != 0 || binary.BigEndian.Uint16(o[1:]) != dns.TypeOPT || o[5] != 0 || o[6] != 0 ||
			len(o) != 11+int(binary.BigEndian.Uint16(o[9:])) {
			return nil, false
		}
		size, do = min(max(int(binary.BigEndian.Uint16(o[3:])), dns.MinMsgSize), maxUDP), o[7]&0x80 != 0
	} else if len(query) != at {
		return nil, false
	}
	s.zone.names.RLock()
	e := s.zone.names.of[string(name)]
	s.zone.names.RUnlock()
	if e == nil {
		if _, pod := s.zone.pod(string(name)); pod {
			return nil, false
		}
	} else if e.cname != "" {
		return nil, false
	}
	out = append(out[:0], query[:at]...)
	out[2] |= 0x84                          // an answer, with authority
	out[3] = 0x80 | query[3]&0x10           // recursion available
	binary.BigEndian.PutUint32(out[6:], 0)  // answers and authority
	binary.BigEndian.PutUint16(out[10:], 0) // additional
	if e == nil {
		out[3] |= dns.RcodeNameError
	}
	if e != nil && kind == dns.TypeA && len(e.a) > 0 {
		if at+16*len(e.a)+11 > size {
			return nil, false
		}
		first := 0
		if len(e.a) > 1 {
			first = rand.IntN(len(e.a))
		}
		for i := range e.a {
			ip := e.a[(first+i)%len(e.a)].As4()
			out = append(out, 0xc0, header, 0, byte(dns.TypeA), 0, dns.ClassINET, 0, 0, 0, ttl, 0, 4, ip[0], ip[1], ip[2], ip[3])
		}
		binary.BigEndian.PutUint16(out[6:], uint16(len(e.a)))
	} else {
		out = s.quickSOA(out, header+len(name)-len(s.zone.domain))
		binary.BigEndian.PutUint16(out[8:], 1)
	}
	if edns {
		var flags byte
		if do {
			flags = 0x80
		}
		out = append(out, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, flags, 0, 0, 0)
		binary.BigEndian.PutUint16(out[10:], 1)
	}
	if len(out) > size {
		return nil, false
	}
	return out, true
}

// quickSOA appends the SOA record; the zone's name is in the message already.
func (s *Server) quickSOA(out []byte, domain int) []byte {
	pointer := func() { out = append(out, 0xc0|byte(domain>>8), byte(domain)) }
	label := func(l string) { out = append(append(out, byte(len(l))), l...) }
	pointer()
	out = append(out, 0, byte(dns.TypeSOA), 0, dns.ClassINET, 0, 0, 0, ttl, 0, 0)
	length := len(out)
	for _, l := range []string{ServiceName, ServiceNamespace, "svc"} {
		label(l)
	}
	pointer()
	label("hostmaster")
	pointer()
	out = binary.BigEndian.AppendUint32(out, s.zone.serial.Load())
	for _, seconds := range [...]uint32{7200, 1800, 86400, ttl} {
		out = binary.BigEndian.AppendUint32(out, seconds)
	}
	binary.BigEndian.PutUint16(out[length-2:], uint16(len(out)-length))
	return out
}

// plainName reads a name of letters, digits, - and _ into text, in lower case with dots, and returns the length it had. It is as long in
// text as its labels were, so that a suffix is found at the same distance from the end.
func plainName(in, text []byte) (name []byte, length int, ok bool) {
	for at := 0; at < len(in); {
		n := int(in[at])
		at++
		if n == 0 {
			return text, at, len(text) > 0
		}
		if n > 63 || at+n >= len(in) || at+n > 254 {
			return nil, 0, false
		}
		for _, c := range in[at : at+n] {
			switch {
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return nil, 0, false
			}
			text = append(text, c)
		}
		text = append(text, '.')
		at += n
	}
	return nil, 0, false
}
