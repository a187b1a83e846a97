// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"
	"slices"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// block is a header block that comes in: HEADERS and what continues it.
type block struct {
	open     bool
	stream   uint32
	end      bool // of the stream
	frames   int
	bytes    int
	size     int // decoded, as it counts
	tooLarge bool
	fields   []hpack.HeaderField
}

// What a header block may be beside its size, which decoding bounds.
const (
	blockFrames     = 32  // and one more for each
	blockFrameBytes = 128 // bytes
)

// frame reads one frame and does what it says.
func (c *conn) frame() error {
	h, payload, err := c.readFrame()
	if err != nil {
		return err
	}
	if c.controls.Load() > controlsMax {
		return fault{wire.ErrCodeEnhanceYourCalm, "too many frames wait to be answered"}
	}
	return c.dispatch(h, payload)
}

func (c *conn) dispatch(h head, payload []byte) error {
	if c.block.open && (h.kind != wire.FrameContinuation || h.stream != c.block.stream) {
		return fault{wire.ErrCodeProtocol, "a header block is interrupted"}
	}
	switch h.kind {
	case wire.FrameData:
		return c.onData(h, payload)
	case wire.FrameHeaders:
		return c.onHeaders(h, payload)
	case wire.FrameContinuation:
		if !c.block.open {
			return fault{wire.ErrCodeProtocol, "CONTINUATION of nothing"}
		}
		return c.onFragment(h, payload)
	case wire.FrameSettings:
		return c.onSettings(h, payload)
	case wire.FramePing:
		return c.onPing(h, payload)
	case wire.FrameWindowUpdate:
		return c.onWindow(h, payload)
	case wire.FrameRSTStream:
		return c.onReset(h, payload)
	case wire.FrameGoAway:
		return c.onGoAway(h, payload)
	case wire.FramePriority:
		if h.stream == 0 {
			return fault{wire.ErrCodeProtocol, "PRIORITY of the connection"}
		}
		if h.length != 5 {
			c.refuse(h.stream, wire.ErrCodeFrameSize)
		}
		return c.noisy()
	case wire.FramePushPromise:
		return fault{wire.ErrCodeProtocol, "PUSH_PROMISE of a client"}
	}
	return c.noisy()
}

// unpad takes the padding off.
func unpad(h head, payload []byte) ([]byte, error) {
	if !h.flags.Has(wire.FlagDataPadded) { // the same in HEADERS
		return payload, nil
	}
	if len(payload) == 0 {
		return nil, fault{wire.ErrCodeFrameSize, "no length of padding"}
	}
	pad := int(payload[0])
	if pad >= len(payload) {
		return nil, fault{wire.ErrCodeProtocol, "more padding than payload"}
	}
	return payload[1 : len(payload)-pad], nil
}

func (c *conn) onHeaders(h head, payload []byte) error {
	if h.stream%2 == 0 {
		return fault{wire.ErrCodeProtocol, "HEADERS of a stream that is no client's"}
	}
	payload, err := unpad(h, payload)
	if err != nil {
		return err
	}
	if h.flags.Has(wire.FlagHeadersPriority) {
		if len(payload) < 5 {
			return fault{wire.ErrCodeFrameSize, "no priority in HEADERS"}
		}
		payload = payload[5:]
	}
	clear(c.block.fields)
	fields := c.block.fields[:0]
	if cap(fields) > 64 {
		fields = nil
	}
	c.block = block{open: true, stream: h.stream, end: h.flags.Has(wire.FlagHeadersEndStream), fields: fields}
	if !h.flags.Has(wire.FlagHeadersEndHeaders) {
		if t := c.headerTimeout(); t > 0 {
			_ = c.nc.SetReadDeadline(time.Now().Add(t))
		}
	}
	c.decoder.SetEmitEnabled(true)
	return c.onFragment(h, payload)
}

// headerTimeout is how long a header block may take to come.
func (c *conn) headerTimeout() time.Duration {
	if t := c.server.hs.ReadHeaderTimeout; t != 0 {
		return t
	}
	return c.server.hs.ReadTimeout
}

// onFragment decodes a part of a header block.
func (c *conn) onFragment(h head, fragment []byte) error {
	b := &c.block
	b.frames++
	b.bytes += len(fragment)
	if b.frames > blockFrames+b.bytes/blockFrameBytes || b.bytes > 2*c.server.maxHeaderList() {
		return fault{wire.ErrCodeEnhanceYourCalm, "a header block without end"}
	}
	if _, err := c.decoder.Write(fragment); err != nil {
		return fault{wire.ErrCodeCompression, err.Error()}
	}
	if !h.flags.Has(wire.FlagHeadersEndHeaders) {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return fault{wire.ErrCodeCompression, err.Error()}
	}
	b.open = false
	if b.frames > 1 && c.headerTimeout() > 0 {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	return c.onBlock()
}

// emit takes a decoded field.
func (c *conn) emit(f hpack.HeaderField) {
	b := &c.block
	if b.size += int(f.Size()); b.size > c.server.maxHeaderList() {
		b.tooLarge = true
		c.decoder.SetEmitEnabled(false)
		return
	}
	b.fields = append(b.fields, f)
}

// onBlock does what a whole header block says: a request, or the trailers of one.
func (c *conn) onBlock() error {
	id := c.block.stream
	c.mu.Lock()
	s := c.streams[id]
	if s != nil {
		defer c.mu.Unlock()
		return c.onTrailers(s)
	}
	if id <= c.newest {
		defer c.mu.Unlock()
		if slices.Contains(c.dropped[:], id) {
			return c.noisy()
		}
		return fault{wire.ErrCodeStreamClosed, "HEADERS of a stream that is closed"}
	}
	c.newest = id
	gone, full := c.state >= left, len(c.streams) >= c.server.maxStreams
	c.mu.Unlock()
	switch {
	case gone:
		return nil
	case full:
		c.refuse(id, wire.ErrCodeRefusedStream)
		return c.noisy()
	}
	return c.onRequest(id)
}

// onTrailers takes the trailers of a request. It runs under the lock.
func (c *conn) onTrailers(s *stream) error {
	switch {
	case s.ended:
		c.resetStream(s, wire.ErrCodeStreamClosed)
	case !c.block.end || c.block.tooLarge || !s.takeTrailers(c.block.fields):
		c.resetStream(s, wire.ErrCodeProtocol)
	default:
		s.endBody()
	}
	return nil
}

func (c *conn) onData(h head, payload []byte) error {
	if h.stream == 0 {
		return fault{wire.ErrCodeProtocol, "DATA of the connection"}
	}
	data, err := unpad(h, payload)
	if err != nil {
		return err
	}
	end := h.flags.Has(wire.FlagDataEndStream)
	if len(data) == 0 && !end {
		if err := c.noisy(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	size := int64(h.length)
	if c.receive -= size; c.receive < 0 {
		return fault{wire.ErrCodeFlowControl, "more DATA than the window of the connection"}
	}
	s := c.streams[h.stream]
	if s == nil {
		if h.stream > c.newest {
			return fault{wire.ErrCodeProtocol, "DATA of a stream that was not opened"}
		}
		c.giveBack(size)
		if slices.Contains(c.dropped[:], h.stream) || c.state >= left {
			return nil
		}
		c.appendReset(h.stream, wire.ErrCodeStreamClosed)
		return c.noisy()
	}
	if s.ended {
		c.giveBack(size)
		c.resetStream(s, wire.ErrCodeStreamClosed)
		return nil
	}
	if s.receive -= size; s.receive < 0 {
		c.giveBack(size)
		c.resetStream(s, wire.ErrCodeFlowControl)
		return nil
	}
	if pad := size - int64(len(data)); pad > 0 {
		c.giveBack(pad)
		s.giveBack(pad)
	}
	if !s.takeData(data, end) {
		c.resetStream(s, wire.ErrCodeProtocol)
		return nil
	}
	if end {
		s.endBody()
	}
	return nil
}

// giveBack lets the client send n bytes more on the connection, by and by. It runs under the lock.
func (c *conn) giveBack(n int64) (told bool) {
	if c.credit += n; c.credit < connWindow/2 {
		return false
	}
	c.appendWindow(0, c.credit)
	c.receive += c.credit
	c.credit = 0
	return true
}

func (c *conn) onSettings(h head, payload []byte) error {
	switch {
	case h.stream != 0:
		return fault{wire.ErrCodeProtocol, "SETTINGS of a stream"}
	case h.flags.Has(wire.FlagSettingsAck):
		if h.length != 0 {
			return fault{wire.ErrCodeFrameSize, "SETTINGS with acknowledgement"}
		}
		return c.noisy()
	case h.length%6 != 0:
		return fault{wire.ErrCodeFrameSize, "length of SETTINGS"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(payload) > 0; payload = payload[6:] {
		s := wire.Setting{ID: wire.SettingID(binary.BigEndian.Uint16(payload)), Val: binary.BigEndian.Uint32(payload[2:])}
		if err := c.onSetting(s); err != nil {
			return err
		}
	}
	c.appendFrame(wire.FrameSettings, wire.FlagSettingsAck, 0, nil)
	return c.noisy()
}

func (c *conn) onSetting(s wire.Setting) error {
	switch s.ID {
	case wire.SettingInitialWindowSize:
		if s.Val > maxWindow {
			return fault{wire.ErrCodeFlowControl, "initial window"}
		}
		change := int64(s.Val) - c.initial
		c.initial = int64(s.Val)
		for _, t := range c.streams {
			if t.send += change; t.send > maxWindow {
				return fault{wire.ErrCodeFlowControl, "window of a stream"}
			}
			t.changed.Broadcast()
		}
	case wire.SettingMaxFrameSize:
		if s.Val < 16<<10 || s.Val > 1<<24-1 {
			return fault{wire.ErrCodeProtocol, "size of frames"}
		}
	case wire.SettingHeaderTableSize:
		c.encoder.shrink(int(s.Val))
	case wire.SettingEnablePush:
		if s.Val > 1 {
			return fault{wire.ErrCodeProtocol, "ENABLE_PUSH"}
		}
	}
	return nil
}

func (c *conn) onPing(h head, payload []byte) error {
	switch {
	case h.stream != 0:
		return fault{wire.ErrCodeProtocol, "PING of a stream"}
	case h.length != 8:
		return fault{wire.ErrCodeFrameSize, "length of PING"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.flags.Has(wire.FlagPingAck) {
		if string(payload) == leavePing {
			c.haveLeft()
		}
		return c.noisy()
	}
	c.appendFrame(wire.FramePing, wire.FlagPingAck, 0, payload)
	return c.noisy()
}

func (c *conn) onWindow(h head, payload []byte) error {
	if h.length != 4 {
		return fault{wire.ErrCodeFrameSize, "length of WINDOW_UPDATE"}
	}
	n := int64(binary.BigEndian.Uint32(payload) & (1<<31 - 1))
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.stream == 0 {
		if n == 0 {
			return fault{wire.ErrCodeProtocol, "WINDOW_UPDATE of nothing"}
		}
		if c.send += n; c.send > maxWindow {
			return fault{wire.ErrCodeFlowControl, "window of the connection"}
		}
		c.wake()
		return nil
	}
	s := c.streams[h.stream]
	switch {
	case s == nil && h.stream > c.newest:
		return fault{wire.ErrCodeProtocol, "WINDOW_UPDATE of a stream that was not opened"}
	case s == nil:
	case n == 0:
		c.resetStream(s, wire.ErrCodeProtocol)
		return c.noisy()
	default:
		if s.send += n; s.send > maxWindow {
			c.resetStream(s, wire.ErrCodeFlowControl)
			return c.noisy()
		}
		s.changed.Broadcast()
	}
	return nil
}

func (c *conn) onReset(h head, payload []byte) error {
	switch {
	case h.stream == 0:
		return fault{wire.ErrCodeProtocol, "RST_STREAM of the connection"}
	case h.length != 4:
		return fault{wire.ErrCodeFrameSize, "length of RST_STREAM"}
	}
	c.mu.Lock()
	if h.stream > c.newest {
		c.mu.Unlock()
		return fault{wire.ErrCodeProtocol, "RST_STREAM of a stream that was not opened"}
	}
	s := c.streams[h.stream]
	if s != nil {
		c.remove(s, errGone)
	}
	c.mu.Unlock()
	if s != nil {
		s.cancel()
		return nil
	}
	return c.noisy()
}

func (c *conn) onGoAway(h head, _ []byte) error {
	switch {
	case h.stream != 0:
		return fault{wire.ErrCodeProtocol, "GOAWAY of a stream"}
	case h.length < 8:
		return fault{wire.ErrCodeFrameSize, "length of GOAWAY"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startLeaving()
	return c.noisy()
}

// refuse resets a stream that is not open.
func (c *conn) refuse(id uint32, code wire.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		c.resetStream(s, code)
		return
	}
	c.remember(id)
	c.appendReset(id, code)
}

// remember notes that a stream was reset by the server.
func (c *conn) remember(id uint32) {
	c.dropped[c.drops%dropped] = id
	c.drops++
}

// resetStream ends a stream because of an error of the client's, or because its handler could not finish.
func (c *conn) resetStream(s *stream, code wire.ErrCode) {
	c.remember(s.id)
	c.appendReset(s.id, code)
	c.remove(s, errStream)
	s.cancel()
}
