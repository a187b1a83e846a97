// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	wire "golang.org/x/net/http2"
)

// Limits of what waits to be written.
const (
	outputMax   = 64 << 10 // bytes of answers; a header more
	outputKeep  = 96 << 10 // the largest buffer that is kept
	controlsMax = 1000     // answers to pings, settings and errors
	dataMax     = maxFrame - frameHeader
)

// How many writes a goroutine does for others before somebody else goes on.
const (
	once = 2
	all  = -1
)

// output is what a connection writes. The lock is the connection's.
type output struct {
	conn     *conn
	out      []byte  // what waits
	lent     *[]byte // out's buffer
	writing  bool    // somebody writes, or is about to
	broken   error   // of a write
	until    time.Time
	room     sync.Cond // changes of out and writing
	controls atomic.Int32
	waiters  []*stream // for room, or the window of the connection

	send    int64 // what the client takes on the connection
	initial int64 // what it takes on a new stream
	encoder encoder
}

func (o *output) init(c *conn) {
	o.conn, o.room.L = c, &c.mu
	o.send, o.initial = initialWindow, initialWindow
	o.encoder.max = 4096 // of RFC 9113
	o.encoder.shrink(tableSize)
}

// reserve makes sure that there is a buffer.
func (o *output) reserve() {
	if o.out != nil {
		return
	}
	if o.lent, _ = o.conn.server.outputs.Get().(*[]byte); o.lent == nil {
		b := make([]byte, 0, 4<<10)
		o.lent = &b
	}
	o.out = (*o.lent)[:0]
}

// appendHead appends the header of a frame.
func (o *output) appendHead(length int, kind wire.FrameType, flags wire.Flags, stream uint32) {
	o.reserve()
	o.out = append(o.out, byte(length>>16), byte(length>>8), byte(length), byte(kind), byte(flags),
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// appendFrame appends a frame that is no answer of a handler.
func (o *output) appendFrame(kind wire.FrameType, flags wire.Flags, stream uint32, payload []byte) {
	if o.broken != nil {
		return
	}
	o.controls.Add(1)
	o.appendHead(len(payload), kind, flags, stream)
	o.out = append(o.out, payload...)
}

func (o *output) appendReset(stream uint32, code wire.ErrCode) {
	o.appendFrame(wire.FrameRSTStream, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(code)))
}

func (o *output) appendWindow(stream uint32, n int64) {
	o.appendFrame(wire.FrameWindowUpdate, 0, stream, binary.BigEndian.AppendUint32(nil, uint32(n)))
}

func (o *output) appendGoAway(last uint32, code wire.ErrCode, why string) {
	b := binary.BigEndian.AppendUint32(nil, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	o.appendFrame(wire.FrameGoAway, 0, 0, append(b, why...))
}

// appendFields appends HEADERS, and CONTINUATION if one frame is too small.
func (o *output) appendFields(stream uint32, end bool, fields []field) {
	o.reserve()
	at := len(o.out)
	o.appendHead(0, wire.FrameHeaders, wire.FlagHeadersEndHeaders, stream)
	o.out = o.encoder.begin(o.out)
	for i := range fields {
		o.out = o.encoder.append(o.out, &fields[i])
	}
	size := len(o.out) - at - frameHeader
	if size > maxFrame {
		rest := append([]byte(nil), o.out[at+frameHeader+maxFrame:]...)
		o.out, size = o.out[:at+frameHeader+maxFrame], maxFrame
		o.out[at+4] = 0
		for len(rest) > 0 {
			part := rest[:min(len(rest), maxFrame)]
			rest = rest[len(part):]
			var flags wire.Flags
			if len(rest) == 0 {
				flags = wire.FlagContinuationEndHeaders
			}
			o.appendHead(len(part), wire.FrameContinuation, flags, stream)
			o.out = append(o.out, part...)
		}
	}
	o.out[at], o.out[at+1], o.out[at+2] = byte(size>>16), byte(size>>8), byte(size)
	if end {
		o.out[at+4] |= byte(wire.FlagHeadersEndStream)
	}
}

// data appends DATA as the client takes it, and waits until it does. It runs under the lock.
func (s *stream) data(p []byte, end bool) error {
	c := s.conn
	for {
		switch {
		case s.err != nil:
			return s.err
		case len(c.out) >= outputMax && !c.writing:
			c.flush(1)
			continue
		case len(c.out) >= outputMax, len(p) > 0 && (c.send <= 0 || s.send <= 0):
			c.flush(once)
			if len(c.out) >= outputMax && c.writing || len(p) > 0 && (c.send <= 0 || s.send <= 0) {
				s.wait()
			}
			continue
		}
		n := int(min(int64(len(p)), dataMax, c.send, s.send))
		var flags wire.Flags
		last := n == len(p)
		if last && end {
			flags = wire.FlagDataEndStream
		}
		c.send -= int64(n)
		s.send -= int64(n)
		c.appendHead(n, wire.FrameData, flags, s.id)
		c.out = append(c.out, p[:n]...)
		if p = p[n:]; last {
			return nil
		}
	}
}

// wait waits until the stream may be able to go on.
func (s *stream) wait() {
	if s.err != nil {
		return
	}
	if !s.waiting {
		s.waiting = true
		s.conn.waiters = append(s.conn.waiters, s)
	}
	s.changed.Wait()
}

// wake wakes the streams that wait for the connection.
func (c *conn) wake() {
	for i, s := range c.waiters {
		s.waiting = false
		s.changed.Broadcast()
		c.waiters[i] = nil
	}
	c.waiters = c.waiters[:0]
	c.room.Broadcast()
}

// flush writes what waits unless somebody does, at most so many times; then another goroutine goes on. It runs under the lock, which it
// lets go while it writes.
func (c *conn) flush(times int) {
	if c.writing || len(c.out) == 0 {
		return
	}
	c.writing = true
	c.mu.Unlock()
	runtime.Gosched() // so that those who are about to put something there do
	c.mu.Lock()
	for len(c.out) > 0 {
		if times == 0 {
			go c.flushOn()
			return
		}
		times--
		c.writeOut()
	}
	c.writing = false
	c.room.Broadcast()
}

// flushSoon is flush by another goroutine.
func (c *conn) flushSoon() {
	if !c.writing && len(c.out) > 0 {
		c.writing = true
		go c.flushOn()
	}
}

// flushOn goes on with a flush.
func (c *conn) flushOn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) > 0 {
		c.writeOut()
	}
	c.writing = false
	c.room.Broadcast()
}

// writeOut writes what there is. A client that takes nothing for long is given up.
func (c *conn) writeOut() {
	b, lent := c.out, c.lent
	c.out, c.lent = nil, nil
	c.controls.Store(0)
	err := c.broken
	if err == nil {
		if now := time.Now(); c.until.Sub(now) < c.server.stall {
			c.until = now.Add(2 * c.server.stall)
			_ = c.nc.SetWriteDeadline(c.until)
		}
		c.mu.Unlock()
		_, err = c.nc.Write(b)
		c.mu.Lock()
	}
	if cap(b) <= outputKeep {
		*lent = b[:0]
		c.server.outputs.Put(lent)
	}
	if err != nil && c.broken == nil {
		c.broken = err
		c.cut()
	}
	c.wake()
}

// cut closes the connection without a word.
func (c *conn) cut() {
	if t, ok := c.nc.(interface{ NetConn() net.Conn }); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.nc.Close()
}

// setDeadline sets the time at which expire runs; the zero time is never. It runs under the lock.
func setDeadline(timer **time.Timer, at time.Time, expire func()) (over bool) {
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if at.IsZero() {
		return false
	}
	left := time.Until(at)
	if left <= 0 {
		return true
	}
	*timer = time.AfterFunc(left, expire)
	return false
}

// SetWriteDeadline lets writes fail from then on, and the stream with them.
func (w *response) SetWriteDeadline(at time.Time) error {
	s := w.stream
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if setDeadline(&s.writes, at, s.expire) {
		s.conn.resetStream(s, wire.ErrCodeInternal)
		s.err = os.ErrDeadlineExceeded
		s.conn.flushSoon()
	}
	return nil
}

// SetReadDeadline lets reads of the body fail from then on.
func (w *response) SetReadDeadline(at time.Time) error {
	s := w.stream
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.body.tardy = setDeadline(&s.body.reads, at, s.body.expire); s.body.tardy {
		s.changed.Broadcast()
	}
	return nil
}

// EnableFullDuplex is for handlers that write before they have read all, which they always may.
func (w *response) EnableFullDuplex() error { return nil }
