// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Windows of flow control: how many bytes of bodies clients may send that nobody has read.
const (
	initialWindow = 65535 // of RFC 9113
	streamWindow  = 256 << 10
	connWindow    = 1 << 20
	maxWindow     = 1<<31 - 1
)

// States of a connection that ends.
const (
	staying = iota
	leaving // the client was told to open no streams, and may have done so before it heard of it
	left    // the client knows which streams were the last
	closing
)

// conn is one connection. Its reader is the goroutine of serve; what follows mu is guarded by it.
type conn struct {
	server  *server
	nc      net.Conn
	handler http.Handler
	base    context.Context
	values  context.Context // base without its end
	tls     *tls.ConnectionState
	remote  string

	in       input
	block    block
	decoder  *hpack.Decoder
	starting []*stream // to be started before the reader waits
	noise    noise

	mu       sync.Mutex
	streams  map[uint32]*stream
	newest   uint32 // the highest stream that the client opened
	last     uint32 // the last one that is carried out, once it has left
	handlers int
	queued   []*stream // of handlers that wait for others to end
	state    int
	err      error // why the connection is of no use any more
	dropped  [dropped]uint32
	drops    int
	active   bool // as ConnState was told
	resting  time.Time
	idle     *time.Timer
	parting  *time.Timer

	// What the client may send, and what it sent that may be given back to it.
	receive, credit int64

	output
}

// dropped is how many streams are remembered that were reset by the server: the client may not have heard of it yet.
const dropped = 64

var (
	errGone   = errors.New("http2: the client is gone")
	errStream = errors.New("http2: the stream is closed")
)

// fault is an error of the whole connection.
type fault struct {
	code wire.ErrCode
	why  string
}

// Error implements error.
func (f fault) Error() string { return fmt.Sprintf("http2: %s: %s", f.code, f.why) }

func newConn(s *server, base context.Context, nc net.Conn, state *tls.ConnectionState, h http.Handler) *conn {
	c := &conn{
		server: s, nc: nc, handler: h, base: base, values: context.WithoutCancel(base), tls: state, streams: map[uint32]*stream{},
		receive: connWindow, resting: time.Now(),
	}
	if a := nc.RemoteAddr(); a != nil {
		c.remote = a.String()
	}
	c.in.conn = c
	c.decoder = hpack.NewDecoder(4096, c.emit)
	c.decoder.SetMaxStringLength(s.maxHeaderList())
	c.output.init(c)
	return c
}

// serve reads until the connection ends.
func (c *conn) serve() {
	stop := context.AfterFunc(c.base, func() { _ = c.nc.Close() })
	defer stop()
	err := c.begin()
	for err == nil {
		err = c.frame()
	}
	c.end(err)
}

// begin exchanges what comes before the first request.
func (c *conn) begin() error {
	if c.tls != nil && !goodCipher(c.tls) {
		return fault{wire.ErrCodeInadequateSecurity, "version or cipher of TLS"}
	}
	c.mu.Lock()
	c.settings()
	c.mu.Unlock()
	_ = c.nc.SetReadDeadline(time.Now().Add(prefaceTimeout))
	b, err := c.in.take(len(wire.ClientPreface))
	if err != nil {
		return err
	}
	if string(b) != wire.ClientPreface {
		return fault{wire.ErrCodeProtocol, "no preface"}
	}
	h, payload, err := c.readFrame()
	if err != nil {
		return err
	}
	if h.kind != wire.FrameSettings || h.flags.Has(wire.FlagSettingsAck) {
		return fault{wire.ErrCodeProtocol, "the first frame is not SETTINGS"}
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	c.mu.Lock()
	if c.state == staying {
		c.rest()
	}
	c.mu.Unlock()
	return c.dispatch(h, payload)
}

// settings tells the client what it may do.
func (c *conn) settings() {
	var b []byte
	for _, s := range []wire.Setting{
		{ID: wire.SettingMaxConcurrentStreams, Val: uint32(c.server.maxStreams)},
		{ID: wire.SettingMaxHeaderListSize, Val: uint32(c.server.maxHeaderList())},
		{ID: wire.SettingInitialWindowSize, Val: streamWindow},
	} {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	c.appendFrame(wire.FrameSettings, 0, 0, b)
	c.appendWindow(0, connWindow-initialWindow)
}

// end ends a connection that is not read any more, because of err.
func (c *conn) end(err error) {
	c.mu.Lock()
	if errors.Is(err, os.ErrDeadlineExceeded) && c.state != closing {
		err = fault{wire.ErrCodeNo, "took too long"}
	}
	var f fault
	wrong := errors.As(err, &f)
	_ = c.nc.SetWriteDeadline(time.Now().Add(partingTimeout))
	c.until = time.Now().Add(100 * c.server.stall) // the deadline stays
	if wrong {
		last := c.newest
		if c.state >= left {
			last = c.last
		}
		c.appendGoAway(last, f.code, f.why)
	}
	streams := c.fail(errGone)
	c.state = closing
	for _, t := range []*time.Timer{c.idle, c.parting} {
		if t != nil {
			t.Stop()
		}
	}
	c.flush(all)
	for c.writing {
		c.room.Wait()
	}
	c.mu.Unlock()
	for _, s := range streams {
		s.cancel()
	}
	if wrong && c.broken == nil {
		c.linger()
	}
	c.in.release()
	_ = c.nc.Close()
}

// fail gives up all streams, whose contexts are for the caller to cancel.
func (c *conn) fail(err error) []*stream {
	c.err = err
	out := make([]*stream, 0, len(c.streams))
	for _, s := range c.streams {
		s.drop(err)
		out = append(out, s)
	}
	c.queued = nil
	c.wake()
	return out
}

// linger lets the client read what was written: closing a connection with unread bytes makes the system forget those to be sent.
func (c *conn) linger() {
	if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(partingTimeout))
	_, _ = io.CopyN(io.Discard, c.nc, 16<<20)
}

// leave lets the connection end when its requests are finished. The client is told so twice: what it has sent before it heard of it the
// first time is still served (RFC 9113, section 6.8).
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startLeaving()
	c.flushSoon()
}

// leavePing is what marks the PING after whose answer the client has heard that it shall leave.
const leavePing = "goodbye!"

func (c *conn) startLeaving() {
	if c.state != staying || c.err != nil {
		return
	}
	c.state = leaving
	c.appendGoAway(maxWindow, wire.ErrCodeNo, "")
	c.appendFrame(wire.FramePing, 0, 0, []byte(leavePing))
	c.parting = time.AfterFunc(partingTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.haveLeft()
		c.flush(all)
	})
}

// haveLeft says which streams are the last.
func (c *conn) haveLeft() {
	if c.state != leaving || c.err != nil {
		return
	}
	c.state, c.last = left, c.newest
	c.parting.Stop()
	c.appendGoAway(c.last, wire.ErrCodeNo, "")
	c.closeIfDone()
}

// closeIfDone closes a connection that has left when its last stream has ended.
func (c *conn) closeIfDone() {
	if c.state != left || len(c.streams) > 0 {
		return
	}
	c.state = closing
	go func() { // ends when what is to be written is, or cannot be
		c.mu.Lock()
		c.flush(all)
		for c.writing {
			c.room.Wait()
		}
		c.mu.Unlock()
		if w, ok := c.nc.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
		_ = c.nc.SetReadDeadline(time.Now().Add(partingTimeout)) // ends the reader if the client does not
	}()
}

// opened notes that there is a stream.
func (c *conn) opened() {
	if hook := c.server.hs.ConnState; hook != nil && !c.active {
		hook(c.nc, http.StateActive)
	}
	c.active = true
}

// rest notes that there is no stream.
func (c *conn) rest() {
	if hook := c.server.hs.ConnState; hook != nil && c.active {
		hook(c.nc, http.StateIdle)
	}
	c.active = false
	limit := c.idleTimeout()
	if limit <= 0 {
		return
	}
	c.resting = time.Now()
	if c.idle == nil {
		c.idle = time.AfterFunc(limit, c.idled)
	}
}

func (c *conn) idleTimeout() time.Duration {
	if t := c.server.hs.IdleTimeout; t != 0 {
		return t
	}
	return c.server.hs.ReadTimeout
}

// idled runs when the connection may have been idle for long enough.
func (c *conn) idled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = nil
	if len(c.streams) > 0 || c.state != staying || c.err != nil {
		return
	}
	if left := time.Until(c.resting.Add(c.idleTimeout())); left > 0 {
		c.idle = time.AfterFunc(left, c.idled)
		return
	}
	c.startLeaving()
	c.flush(all)
}

// noise counts frames that bring nothing, in intervals.
type noise struct {
	since time.Time
	n     int
}

// Limits of noise.
const (
	noiseInterval = 5 * time.Second
	noiseMax      = 5000
)

// noisy counts a frame that brings nothing; too many are a fault.
func (c *conn) noisy() error {
	if c.noise.n++; c.noise.n <= noiseMax {
		if c.noise.n == 1 {
			c.noise.since = time.Now()
		}
		return nil
	}
	if time.Since(c.noise.since) > noiseInterval {
		c.noise.n = 0
		return nil
	}
	return fault{wire.ErrCodeEnhanceYourCalm, "too many frames that bring nothing"}
}
