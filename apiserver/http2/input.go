// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	wire "golang.org/x/net/http2"
)

// Sizes of what is read at once: small for a connection that waits, large for frames that need it.
const (
	frameHeader = 9
	maxFrame    = 16 << 10 // the default of RFC 9113, of which nothing else is told to clients
	inputSmall  = 2 << 10
	inputRoom   = 32 << 10
)

// input is what was read and not looked at yet. It is the reader's.
type input struct {
	conn  *conn
	buf   []byte
	r, w  int
	small *[inputSmall]byte
	large *[inputRoom]byte
}

// take returns the next n bytes, which are good until the next call.
func (in *input) take(n int) ([]byte, error) {
	for in.w-in.r < n {
		if err := in.fill(n); err != nil {
			return nil, err
		}
	}
	b := in.buf[in.r : in.r+n]
	in.r += n
	return b, nil
}

// fill reads, after it made room for n bytes.
func (in *input) fill(n int) error {
	switch {
	case in.r == in.w && n <= inputSmall:
		if in.small == nil {
			in.small = new([inputSmall]byte)
		}
		in.release()
		in.buf, in.r, in.w = in.small[:], 0, 0
	case n > len(in.buf):
		if in.large, _ = in.conn.server.inputs.Get().(*[inputRoom]byte); in.large == nil {
			in.large = new([inputRoom]byte)
		}
		in.w = copy(in.large[:], in.buf[in.r:in.w])
		in.buf, in.r = in.large[:], 0
	case in.r+n > len(in.buf):
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	in.conn.beforeWaiting()
	m, err := in.conn.nc.Read(in.buf[in.w:])
	in.w += m
	if m > 0 {
		return nil
	}
	return err
}

// release gives the large buffer back.
func (in *input) release() {
	if in.large != nil {
		in.conn.server.inputs.Put(in.large)
		in.large, in.buf, in.r, in.w = nil, nil, 0, 0
	}
}

// head is the header of a frame.
type head struct {
	length int
	kind   wire.FrameType
	flags  wire.Flags
	stream uint32
}

// readFrame reads one frame. The payload is good until the next call.
func (c *conn) readFrame() (head, []byte, error) {
	b, err := c.in.take(frameHeader)
	if err != nil {
		return head{}, nil, err
	}
	h := head{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: wire.FrameType(b[3]), flags: wire.Flags(b[4]),
		stream: binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1),
	}
	if h.length > maxFrame {
		return h, nil, fault{wire.ErrCodeFrameSize, "frame too large"}
	}
	payload, err := c.in.take(h.length)
	return h, payload, err
}

// beforeWaiting does what the frames so far mean before the reader waits for more.
func (c *conn) beforeWaiting() {
	for i, s := range c.starting {
		c.start(s)
		c.starting[i] = nil
	}
	c.starting = c.starting[:0]
	c.mu.Lock()
	c.flushSoon()
	c.mu.Unlock()
}
