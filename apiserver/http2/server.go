// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package http2 serves HTTP/2 for a net/http server.
//
// Handlers see what they see with net/http's own HTTP/2: the same requests, the same http.ResponseWriter with Flush, deadlines, trailers
// and informational answers. What differs is the way of the bytes. One goroutine per connection reads, and handlers write themselves: an
// answer is put into the connection's buffer as a whole, and whoever finds nobody writing writes what all have put there, so that a small
// answer is one write, and answers that finish together share one. No frame passes through another goroutine.
//
// Everything a client can make the server keep is bounded: streams and the goroutines that serve them, bytes of bodies that nobody read
// (flow control), bytes that wait to be written, answers to pings and settings, header blocks. Who oversteps is told so with the error of
// RFC 9113, or ENHANCE_YOUR_CALM, and loses the connection.
//
// There is no server push, no priority, and no HTTP/2 without TLS. conn.go has the connection, frames.go what comes in, stream.go
// requests, response.go answers and output.go what goes out. Start with Attach.
package http2

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Options are limits of a server; zero values are the defaults.
type Options struct {
	// MaxStreams is how many requests of one connection are carried out at once; 250 if 0.
	MaxStreams int
	// StallTimeout is how long at least one write to a connection may take before the connection is given up; 30 s if 0.
	StallTimeout time.Duration
}

// Limits and times that are no options.
const (
	defaultStreams  = 250
	defaultStall    = 30 * time.Second
	prefaceTimeout  = 10 * time.Second
	partingTimeout  = time.Second // for the client to close, and for GOAWAY to reach it
	outlastTime     = 200 * time.Millisecond
	idleWorkers     = 64
	workersInterval = 5 * time.Second
)

// server is what the connections of one http.Server share.
type server struct {
	hs         *http.Server
	maxStreams int
	stall      time.Duration
	workers    workers
	date       atomic.Pointer[date]

	inputs  sync.Pool // of *[inputRoom]byte: for frames that are large
	outputs sync.Pool // of *[]byte: what waits to be written
	drafts  sync.Pool // of *draft: answers that are being written

	mu      sync.Mutex
	conns   map[*conn]struct{}
	closing bool
}

// Attach makes hs serve HTTP/2 by this package. It is called before hs serves. Of hs, MaxHeaderBytes, the timeouts, ErrorLog and ConnState
// count; Shutdown lets requests finish and tells clients to go.
func Attach(hs *http.Server, o Options) {
	s := &server{hs: hs, maxStreams: o.MaxStreams, stall: o.StallTimeout, conns: map[*conn]struct{}{}}
	if s.maxStreams <= 0 {
		s.maxStreams = defaultStreams
	}
	if s.stall <= 0 {
		s.stall = defaultStall
	}
	if hs.TLSNextProto == nil {
		hs.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	hs.TLSNextProto["h2"] = func(_ *http.Server, c *tls.Conn, h http.Handler) {
		state := c.ConnectionState()
		base := context.Background()
		if b, ok := h.(interface{ BaseContext() context.Context }); ok {
			base = b.BaseContext()
		}
		s.serve(base, c, &state, h)
	}
	hs.RegisterOnShutdown(s.shutdown)
}

// serve serves one connection until it ends.
func (s *server) serve(base context.Context, nc net.Conn, state *tls.ConnectionState, h http.Handler) {
	c := newConn(s, base, nc, state, h)
	s.mu.Lock()
	s.conns[c] = struct{}{}
	closing := s.closing
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	if closing {
		c.leave()
	}
	c.serve()
}

// shutdown lets every connection end when its requests are finished.
func (s *server) shutdown() {
	s.mu.Lock()
	s.closing = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.leave()
	}
	s.workers.close()
}

// date is the value of the Date header for one second.
type date struct {
	second int64
	text   string
}

// now is the value of the Date header.
func (s *server) now() string {
	now := time.Now()
	d := s.date.Load()
	if d == nil || d.second != now.Unix() {
		d = &date{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		s.date.Store(d)
	}
	return d.text
}

// maxHeaderList is how large the header of a request may be, counted as RFC 9113, section 6.5.2, does.
func (s *server) maxHeaderList() int {
	const fields, overhead = 10, 32 // what net/http allows for beside the bytes
	n := s.hs.MaxHeaderBytes
	if n <= 0 {
		n = http.DefaultMaxHeaderBytes
	}
	return n + fields*overhead
}

// goodCipher says whether a connection may carry HTTP/2: TLS 1.3, or 1.2 with none of the ciphers of RFC 9113, appendix A.
func goodCipher(state *tls.ConnectionState) bool {
	if state.Version >= tls.VersionTLS13 {
		return true
	}
	switch state.CipherSuite {
	case tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256:
		return state.Version == tls.VersionTLS12
	}
	return false
}
