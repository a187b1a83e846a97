// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dns is the cluster's DNS server.
//
// It answers for the cluster's domain as version 1.1.0 of the Kubernetes DNS-Based Service Discovery specification says
// (https://github.com/kubernetes/dns/blob/master/docs/specification.md) and asks upstream servers about other names.
// recordsOf is pure and says which names a Service has; zone holds the names of all Services, ready to be answered, and
// follows the API. Names and answers of the cluster are IPv4 only.
//
// Start with Server.Run for what happens when, with Server.answer for what is answered.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	"knarr.dev/client"
)

// Limits of a server.
const (
	// maxUDP is the largest answer over UDP: what fits every network without fragments (https://www.dnsflagday.net/2020/).
	maxUDP = 1232
	// maxQuery is the largest question that is read over UDP.
	maxQuery = 4096
	// maxConnections is how many TCP connections are open at a time, maxForwards how many questions wait for upstreams.
	maxConnections, maxForwards = 512, 512
)

// ttl is the lifetime of the cluster's records in seconds.
const ttl = 5

// Config says what is answered where.
type Config struct {
	// Listen are the addresses to answer on, over UDP and TCP.
	Listen []netip.AddrPort
	// Domain is the cluster's domain. Default cluster.local.
	Domain string
	// Ranges are the cluster's own addresses: of pods, Services and nodes. Upstreams never hear of their reverse names,
	// and are never among them, which would be a loop.
	Ranges []netip.Prefix
	// Upstreams are asked about all other names, in order of preference; see Upstreams. Without any, such questions are refused.
	Upstreams []netip.AddrPort
}

// Server is a DNS server.
type Server struct {
	config  Config
	client  *client.Client
	log     *slog.Logger
	zone    *zone
	forward *forwarder
	ready   chan struct{}

	addresses []netip.AddrPort // fixed when ready is closed
}

// New returns a server that follows the API through c.
func New(config Config, c *client.Client, log *slog.Logger) *Server {
	if config.Domain == "" {
		config.Domain = "cluster.local"
	}
	upstreams := slices.DeleteFunc(slices.Clone(config.Upstreams), func(u netip.AddrPort) bool {
		loop := slices.Contains(config.Listen, u) ||
			slices.ContainsFunc(config.Ranges, func(r netip.Prefix) bool { return r.Contains(u.Addr()) })
		if loop {
			log.Warn("upstream name server ignored: it is this cluster's", "upstream", u)
		}
		return loop
	})
	return &Server{
		config: config, client: c, log: log,
		zone: newZone(config.Domain), forward: newForwarder(upstreams), ready: make(chan struct{}),
	}
}

// Ready is closed when all names are known and questions are answered.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addresses are where questions are answered, once Ready: those of Config.Listen, with real ports for port 0.
func (s *Server) Addresses() []netip.AddrPort { return s.addresses }

// Run answers questions until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	synced, err := s.zone.follow(ctx, s.client, func(f func() error) {
		group.Go(func() { cancel(f()) })
	})
	if err != nil {
		return fmt.Errorf("names of the cluster: %w", err)
	}
	select {
	case <-synced:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, address := range s.config.Listen {
		if err := s.listen(ctx, address, &group, cancel); err != nil {
			return err
		}
	}
	close(s.ready)
	<-ctx.Done()
	return context.Cause(ctx)
}

// listen answers on one address. What it starts ends with ctx.
func (s *Server) listen(ctx context.Context, address netip.AddrPort, group *sync.WaitGroup, cancel context.CancelCauseFunc) error {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	port := packets.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(address.Addr(), port)))
	if err != nil {
		packets.Close()
		return err
	}
	context.AfterFunc(ctx, func() { packets.Close() })
	for range max(2, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			if err := s.packets(ctx, packets, group); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("read from %s: %w", address, err))
			}
		})
	}
	server := &dns.Server{
		Listener: netutil.LimitListener(streams, maxConnections),
		Handler:  dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.stream(ctx, w, q) }),
		// Questions that make no sense are answered by us.
		MsgAcceptFunc: func(h dns.Header) dns.MsgAcceptAction {
			if h.Bits&(1<<15) != 0 {
				return dns.MsgIgnore
			}
			return dns.MsgAccept
		},
	}
	s.addresses = append(s.addresses, netip.AddrPortFrom(address.Addr(), port))
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	group.Go(func() {
		if err := server.ActivateAndServe(); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("serve %s: %w", address, err))
		}
	})
	group.Go(func() {
		<-ctx.Done()
		<-started
		soon, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer done()
		server.ShutdownContext(soon)
	})
	s.log.Info("answering names", "address", netip.AddrPortFrom(address.Addr(), port), "domain", s.config.Domain)
	return nil
}

// packets answers questions over UDP: those about the cluster at once, others when the upstream has answered.
func (s *Server) packets(ctx context.Context, conn *net.UDPConn, group *sync.WaitGroup) error {
	in, out := make([]byte, maxQuery), make([]byte, 0, maxUDP)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // what an earlier answer met: nobody listens there any more
		}
		if reply, ok := s.quick(in[:n], out); ok {
			conn.WriteToUDPAddrPort(reply, from)
			continue
		}
		q := new(dns.Msg)
		if err := q.Unpack(in[:n]); err != nil || q.Response {
			if reply := malformed(in[:n]); reply != nil {
				conn.WriteToUDPAddrPort(reply, from)
			}
			continue
		}
		reply := func() {
			if b := finish(q, s.answer(ctx, q), sizeOf(q)); b != nil {
				conn.WriteToUDPAddrPort(b, from)
			}
		}
		if !s.asksUpstream(q) {
			reply()
			continue
		}
		select {
		case s.forward.slots <- struct{}{}:
			group.Go(func() {
				defer func() { <-s.forward.slots }()
				reply()
			})
		default: // too many are waiting
			if b := finish(q, failure(q, dns.RcodeServerFailure), sizeOf(q)); b != nil {
				conn.WriteToUDPAddrPort(b, from)
			}
		}
	}
}

// stream answers a question over TCP.
func (s *Server) stream(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	if b := finish(q, s.answer(ctx, q), dns.MaxMsgSize); b != nil {
		w.Write(b)
	}
}

// sizeOf is the largest answer over UDP that the asker takes.
func sizeOf(q *dns.Msg) int {
	if o := q.IsEdns0(); o != nil {
		return min(max(int(o.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	return dns.MinMsgSize
}

// finish encodes an answer that fits the size; what does not is left out and marked so.
func finish(q, m *dns.Msg, size int) []byte {
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(maxUDP, o.Do())
		if o.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			m.Answer, m.Ns = nil, nil
		}
	}
	m.Truncate(size)
	m.Compress = true
	b, err := m.Pack()
	if err != nil {
		if b, err = failure(q, dns.RcodeServerFailure).Pack(); err != nil {
			return nil
		}
	}
	return b
}

// malformed answers what cannot be read, unless it is an answer itself or too short to be anything.
func malformed(query []byte) []byte {
	if len(query) < 12 || query[2]&0x80 != 0 {
		return nil
	}
	reply := make([]byte, 12)
	copy(reply, query[:2])
	reply[2] = 0x80 | query[2]&0x79 // an answer; opcode and recursion desired as asked
	reply[3] = dns.RcodeFormatError
	return reply
}

func failure(q *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, code)
	m.RecursionAvailable = true
	return m
}
