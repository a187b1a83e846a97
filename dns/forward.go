// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Bounds of what is asked upstream. Askers give up after five seconds, so forwarding does before.
const (
	attemptTimeout = 1500 * time.Millisecond
	forwardTimeout = 4500 * time.Millisecond
	rounds         = 2

	maxCached     = 10000 // answers
	maxCachedSize = 4096  // bytes of one
	maxPositive   = 5 * time.Minute
	maxNegative   = 30 * time.Second
)

// errNoUpstream says that nobody is there to ask.
var errNoUpstream = errors.New("no upstream name servers")

// codeOf is what askers hear of an error.
func codeOf(err error) int {
	if errors.Is(err, errNoUpstream) {
		return dns.RcodeRefused
	}
	return dns.RcodeServerFailure
}

// Upstreams reads the name servers of a resolv.conf file.
func Upstreams(file string) ([]netip.AddrPort, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	config, err := dns.ClientConfigFromReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	port, err := strconv.ParseUint(config.Port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var servers []netip.AddrPort
	for _, s := range config.Servers {
		if ip, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	return servers, nil
}

// forwarder asks upstreams and remembers what they said. One question is asked once at a time, whoever asks: should an upstream ask
// us back, its question joins the one that is under way and both end with the timeout, instead of going round.
type forwarder struct {
	upstreams []netip.AddrPort
	preferred atomic.Uint32 // the upstream that answered last
	slots     chan struct{}
	exchange  func(ctx context.Context, m *dns.Msg, network string, to netip.AddrPort) (*dns.Msg, error)

	mu      sync.Mutex
	flights map[question]*flight
	cached  map[question]*list.Element
	recent  *list.List // of *cached, the most recent first
}

// question is what makes an answer reusable.
type question struct {
	name       string
	kind       uint16
	do, nocert bool
}

type flight struct {
	done  chan struct{}
	reply *dns.Msg
	err   error
}

type cached struct {
	question question
	reply    *dns.Msg
	from     time.Time
	lifetime time.Duration
}

func newForwarder(upstreams []netip.AddrPort) *forwarder {
	return &forwarder{
		upstreams: upstreams, slots: make(chan struct{}, maxForwards), exchange: exchange,
		flights: map[question]*flight{}, cached: map[question]*list.Element{}, recent: list.New(),
	}
}

// ask answers from memory or asks. The reply is the caller's.
func (f *forwarder) ask(ctx context.Context, q dns.Question, do, nocert bool) (*dns.Msg, error) {
	if len(f.upstreams) == 0 {
		return nil, errNoUpstream
	}
	key := question{name: dns.CanonicalName(q.Name), kind: q.Qtype, do: do, nocert: nocert}
	f.mu.Lock()
	if reply := f.remembered(key, time.Now()); reply != nil {
		f.mu.Unlock()
		return aged(reply, time.Now()), nil
	}
	if flying := f.flights[key]; flying != nil {
		f.mu.Unlock()
		select {
		case <-flying.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if flying.err != nil {
			return nil, flying.err
		}
		return flying.reply.Copy(), nil
	}
	own := &flight{done: make(chan struct{})}
	f.flights[key] = own
	f.mu.Unlock()

	own.reply, own.err = f.try(ctx, key)
	f.mu.Lock()
	delete(f.flights, key)
	if own.err == nil {
		f.remember(key, own.reply, time.Now())
	}
	f.mu.Unlock()
	close(own.done)
	if own.err != nil {
		return nil, own.err
	}
	return own.reply.Copy(), nil
}

// try asks the upstreams in turn, the one that answered last first. A server that fails or refuses is passed over, but its word counts
// if none has a better one.
func (f *forwarder) try(ctx context.Context, key question) (*dns.Msg, error) {
	ctx, done := context.WithTimeout(ctx, forwardTimeout)
	defer done()
	m := new(dns.Msg)
	m.SetQuestion(key.name, key.kind)
	m.SetEdns0(maxUDP, key.do)
	m.CheckingDisabled = key.nocert
	first := int(f.preferred.Load())
	var refusal *dns.Msg
	err := errNoUpstream
	for i := range rounds * len(f.upstreams) {
		at := (first + i) % len(f.upstreams)
		reply, failed := f.one(ctx, m, f.upstreams[at])
		switch {
		case failed != nil:
			err = failed
		case reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError:
			f.preferred.Store(uint32(at))
			return reply, nil
		default:
			refusal = reply
		}
		if ctx.Err() != nil || refusal != nil && i+1 >= len(f.upstreams) {
			break
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, err
}

// one asks one upstream, again over TCP if the answer was too long.
func (f *forwarder) one(ctx context.Context, m *dns.Msg, to netip.AddrPort) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		m.Id = dns.Id()
		attempt, done := context.WithTimeout(ctx, attemptTimeout)
		reply, err := f.exchange(attempt, m, network, to)
		done()
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", to, err)
		}
		if len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].Name, m.Question[0].Name) ||
			reply.Question[0].Qtype != m.Question[0].Qtype {
			return nil, fmt.Errorf("ask %s: answer to another question", to)
		}
		if reply.Truncated && network == "udp" {
			continue
		}
		reply.Extra = withoutOPT(reply.Extra)
		return reply, nil
	}
	return nil, fmt.Errorf("ask %s: truncated over TCP", to)
}

func exchange(ctx context.Context, m *dns.Msg, network string, to netip.AddrPort) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: attemptTimeout, UDPSize: maxUDP}
	reply, _, err := c.ExchangeContext(ctx, m, to.String())
	return reply, err
}

// withoutOPT removes what concerns the upstream's connection only.
func withoutOPT(rrs []dns.RR) []dns.RR {
	var out []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

// remembered returns a reply that is still good; f.mu is held.
func (f *forwarder) remembered(key question, now time.Time) *cached {
	e := f.cached[key]
	if e == nil {
		return nil
	}
	c := e.Value.(*cached)
	if now.Sub(c.from) >= c.lifetime {
		f.recent.Remove(e)
		delete(f.cached, key)
		return nil
	}
	f.recent.MoveToFront(e)
	return c
}

// remember keeps a reply, and forgets the least used when there are too many; f.mu is held.
func (f *forwarder) remember(key question, reply *dns.Msg, now time.Time) {
	life := lifetime(reply)
	if life <= 0 || reply.Len() > maxCachedSize {
		return
	}
	if e := f.cached[key]; e != nil {
		f.recent.Remove(e)
	}
	f.cached[key] = f.recent.PushFront(&cached{question: key, reply: reply, from: now, lifetime: life})
	if f.recent.Len() > maxCached {
		oldest := f.recent.Back()
		f.recent.Remove(oldest)
		delete(f.cached, oldest.Value.(*cached).question)
	}
}

// lifetime is how long a reply may be used: that of its shortest record or, if there is nothing, what the SOA record says (RFC 2308).
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	shortest, longest := maxPositive, maxPositive
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		shortest, longest = 0, maxNegative
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				shortest = time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
			}
		}
	}
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			shortest = min(shortest, time.Duration(rr.Header().Ttl)*time.Second)
		}
	}
	return min(shortest, longest)
}

// aged returns a copy of a remembered reply whose lifetimes are what is left of them.
func aged(c *cached, now time.Time) *dns.Msg {
	m := c.reply.Copy()
	passed := uint32(now.Sub(c.from) / time.Second)
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(passed, h.Ttl)
		}
	}
	return m
}
