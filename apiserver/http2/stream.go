// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stream is one request and its answer. What is not said to be of its handler is guarded by the connection's lock.
type stream struct {
	conn    *conn
	id      uint32
	request *http.Request
	cancel  context.CancelFunc
	answer  response
	refused string // what is wrong with the request, in which case no handler sees it
	code    int    // of what refuses it

	changed sync.Cond // anything that body or writes wait for
	err     error     // why nothing can be written any more
	send    int64     // what the client takes
	waiting bool      // is among the connection's waiters
	writes  *time.Timer

	ended    bool // by the client
	answered bool // and all that is missing is the end of the request
	receive  int64
	credit   int64
	want     int64 // what the request says its body has; -1 is unknown
	got      int64
	body     body
}

// body is the body of a request.
type body struct {
	s        *stream
	data     []byte // from read on
	read     int
	err      error // after data
	tardy    bool  // the time to read is over
	closed   bool  // nobody reads it
	expected bool  // the client waits for 100
	reads    *time.Timer
	trailer  http.Header
}

// bodyRoom is how many bytes of a body there is room for when the first ones come: no more because the client says so.
const bodyRoom = 4 << 10

// onRequest makes a stream of the header block that came.
func (c *conn) onRequest(id uint32) error {
	b := &c.block
	s := &stream{conn: c, id: id, want: -1, receive: streamWindow, ended: b.end}
	s.changed.L = &c.mu
	s.body.s, s.answer.stream = s, s
	if !c.fill(s, b.fields) {
		c.refuse(id, wire.ErrCodeProtocol)
		return c.noisy()
	}
	if b.tooLarge {
		s.code = http.StatusRequestHeaderFieldsTooLarge
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.send = c.initial
	if len(c.streams) == 0 {
		c.opened()
	}
	c.streams[id] = s
	if t := c.server.hs.ReadTimeout; t > 0 && !s.ended {
		s.body.reads = time.AfterFunc(t, s.body.expire)
	}
	if t := c.server.hs.WriteTimeout; t > 0 {
		s.writes = time.AfterFunc(t, s.expire)
	}
	c.starting = append(c.starting, s)
	return nil
}

// pseudo are the pseudo-header fields of a request.
type pseudo struct{ method, scheme, path, authority string }

// take notes a field, and tells whether it may be there.
func (p *pseudo) take(f hpack.HeaderField) bool {
	var to *string
	switch f.Name {
	case ":method":
		to = &p.method
	case ":scheme":
		to = &p.scheme
	case ":path":
		to = &p.path
	case ":authority":
		to = &p.authority
	default:
		return false
	}
	if *to != "" || f.Value == "" && to != &p.authority {
		return false
	}
	*to = f.Value
	return true
}

// valid says whether the fields go together (RFC 9113, section 8.3.1 and 8.5).
func (p *pseudo) valid() bool {
	if p.method == http.MethodConnect {
		return p.path == "" && p.scheme == "" && p.authority != ""
	}
	return validMethod(p.method) && p.path != "" && (p.scheme == "https" || p.scheme == "http")
}

func validMethod(m string) bool { return m != "" && httpguts.ValidHeaderFieldName(m) }

// fill makes the request of a stream; false if it is malformed.
func (c *conn) fill(s *stream, fields []hpack.HeaderField) bool {
	var p pseudo
	n := 0
	for n < len(fields) && fields[n].IsPseudo() {
		if !httpguts.ValidHeaderFieldValue(fields[n].Value) || !p.take(fields[n]) {
			return false
		}
		n++
	}
	if !p.valid() {
		return false
	}
	h, ok := header(fields[n:])
	if !ok {
		return false
	}
	for k := range h {
		if ofConnection(k) {
			s.code, s.refused = http.StatusBadRequest, fmt.Sprintf("request header %q is not valid in HTTP/2", k)
		}
	}
	if te := h["Te"]; len(te) > 1 || len(te) == 1 && te[0] != "trailers" && te[0] != "" {
		s.code, s.refused = http.StatusBadRequest, `request header "TE" may only be "trailers" in HTTP/2`
	}
	if p.authority == "" {
		p.authority = h.Get("Host")
	}
	r := http.Request{
		Method: p.method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: h, Host: p.authority, RequestURI: p.path, RemoteAddr: c.remote, TLS: c.tls,
		Body: http.NoBody,
	}
	var err error
	if p.method == http.MethodConnect {
		r.URL, r.RequestURI = &url.URL{Host: p.authority}, p.authority
	} else if r.URL, err = url.ParseRequestURI(p.path); err != nil {
		return false
	}
	if !s.describe(&r) {
		return false
	}
	ctx, cancel := context.WithCancel(c.values)
	s.request, s.cancel = r.WithContext(ctx), cancel
	return true
}

// describe sets what the header says of the request's body.
func (s *stream) describe(r *http.Request) bool {
	h := r.Header
	if cookies := h["Cookie"]; len(cookies) > 1 {
		h["Cookie"] = []string{strings.Join(cookies, "; ")}
	}
	expects := httpguts.HeaderValuesContainsToken(h["Expect"], "100-continue")
	if expects {
		delete(h, "Expect")
	}
	if names := h["Trailer"]; len(names) > 0 {
		for _, v := range names {
			for name := range strings.SplitSeq(v, ",") {
				switch k := http.CanonicalHeaderKey(strings.TrimSpace(name)); k {
				case "Transfer-Encoding", "Trailer", "Content-Length", "":
				default:
					if r.Trailer == nil {
						r.Trailer = http.Header{}
					}
					r.Trailer[k] = nil
				}
			}
		}
		delete(h, "Trailer")
	}
	if lengths := h["Content-Length"]; len(lengths) > 0 {
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		for _, other := range lengths[1:] {
			if other != lengths[0] {
				return false
			}
		}
		if err != nil || s.ended && n != 0 {
			return false
		}
		s.want = int64(n)
	}
	if !s.ended {
		r.ContentLength, r.Body, s.body.expected = s.want, &s.body, expects
	}
	return true
}

// header makes a header of fields; false if one may not be there.
func header(fields []hpack.HeaderField) (http.Header, bool) {
	h := make(http.Header, len(fields))
	values := make([]string, len(fields))
	for i, f := range fields {
		if !validName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
			return nil, false
		}
		k := canonical(f.Name)
		if before, ok := h[k]; ok {
			h[k] = append(before, f.Value)
			continue
		}
		values[i] = f.Value
		h[k] = values[i : i+1 : i+1]
	}
	return h, true
}

// start lets a stream's handler run as soon as there is room. Handlers whose streams were reset count until they end, so that who opens
// and resets streams has no more of them than others.
func (c *conn) start(s *stream) {
	c.mu.Lock()
	if s.err == nil && c.handlers >= c.server.maxStreams {
		if len(c.queued) >= 2*c.server.maxStreams { // most were reset: there are not so many streams
			c.queued = slices.DeleteFunc(c.queued, func(s *stream) bool { return s.err != nil })
		}
		c.queued = append(c.queued, s)
		c.mu.Unlock()
		return
	}
	gone := s.err != nil
	if !gone {
		c.handlers++
	}
	c.mu.Unlock()
	if !gone {
		c.server.workers.run(s)
	}
}

// handled notes that a handler has ended, and starts one that waited. It runs under the lock.
func (c *conn) handled() {
	c.handlers--
	for len(c.queued) > 0 {
		s := c.queued[0]
		c.queued[0] = nil
		c.queued = c.queued[1:]
		if s.err == nil {
			c.handlers++
			c.server.workers.run(s)
			return
		}
	}
}

// serve runs the handler.
func (s *stream) serve() {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
		}
	}()
	switch s.code {
	case 0:
		s.conn.handler.ServeHTTP(&s.answer, s.request)
	case http.StatusRequestHeaderFieldsTooLarge:
		s.answer.WriteHeader(s.code)
		_, _ = s.answer.WriteString("<h1>HTTP Error 431</h1><p>Request Header Field(s) Too Large</p>")
	default:
		http.Error(&s.answer, s.refused, s.code)
	}
	s.finish()
}

func (s *stream) panicked(p any) {
	if p != http.ErrAbortHandler {
		text := fmt.Sprintf("http2: panic serving %s: %v\n%s", s.conn.remote, p, debug.Stack())
		if l := s.conn.server.hs.ErrorLog; l != nil {
			l.Print(text)
		}
	}
	c := s.conn
	c.mu.Lock()
	s.answer.discard()
	if s.err == nil {
		c.resetStream(s, wire.ErrCodeInternal)
	}
	c.handled()
	c.flush(all)
	c.mu.Unlock()
	s.cancel()
}

// finish sends what is left of an answer whose handler has returned.
func (s *stream) finish() {
	c := s.conn
	c.mu.Lock()
	s.answer.end()
	if s.err == nil {
		if s.ended {
			c.remove(s, errStream)
		} else {
			s.outlast()
		}
	}
	c.handled()
	c.mu.Unlock()
	s.cancel()
	c.mu.Lock()
	c.flush(all)
	c.mu.Unlock()
}

// outlast lets a client send for a moment what nobody needs, since the answer is complete, and then asks it to stop. If it was asked
// at once some clients would not look at the answer.
func (s *stream) outlast() {
	c := s.conn
	s.drop(errStream)
	s.body.closed, s.answered = true, true
	s.writes = time.AfterFunc(outlastTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.streams[s.id] == s {
			c.resetStream(s, wire.ErrCodeNo)
			c.flush(all)
		}
	})
}

// remove forgets a stream. It runs under the lock.
func (c *conn) remove(s *stream, err error) {
	delete(c.streams, s.id)
	s.drop(err)
	if len(c.streams) == 0 && c.err == nil {
		c.rest()
		c.closeIfDone()
	}
}

// drop wakes all who wait for the stream, which will not come to anything.
func (s *stream) drop(err error) {
	s.err = err
	unread := int64(len(s.body.data) - s.body.read)
	if s.body.err == nil || unread > 0 { // what was not read must not look like an end
		s.body.err = err
	}
	s.conn.giveBack(unread)
	s.body.data, s.body.read = nil, 0
	for _, t := range []*time.Timer{s.writes, s.body.reads} {
		if t != nil {
			t.Stop()
		}
	}
	s.changed.Broadcast()
}

// expire runs when the time to write is over.
func (s *stream) expire() {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err == nil {
		c.resetStream(s, wire.ErrCodeInternal)
		s.err = os.ErrDeadlineExceeded
		c.flush(once)
	}
}

// takeData adds to the body; false if it is longer than it should be.
func (s *stream) takeData(data []byte, end bool) bool {
	s.got += int64(len(data))
	if s.want >= 0 && (s.got > s.want || end && s.got < s.want) {
		s.conn.giveBack(int64(len(data)))
		return false
	}
	b := &s.body
	if len(data) == 0 {
		return true
	}
	if b.closed {
		s.conn.giveBack(int64(len(data)))
		return true
	}
	if b.data == nil {
		room := max(4*len(data), bodyRoom)
		if s.want >= 0 {
			room = int(min(s.want, int64(room)))
		}
		b.data = make([]byte, 0, room)
	}
	b.data = append(b.data, data...)
	s.changed.Broadcast()
	return true
}

// takeTrailers keeps the trailers of a request; false if there are some that may not be.
func (s *stream) takeTrailers(fields []hpack.HeaderField) bool {
	if s.want >= 0 && s.got != s.want {
		return false
	}
	h, ok := header(fields)
	if !ok {
		return false
	}
	s.body.trailer = h
	return true
}

// endBody notes that the client has sent all.
func (s *stream) endBody() {
	s.ended = true
	if s.body.err == nil {
		s.body.err = io.EOF
	}
	if s.answered {
		s.conn.remove(s, errStream)
		return
	}
	if s.body.reads != nil {
		s.body.reads.Stop()
	}
	s.changed.Broadcast()
}

// giveBack lets the client send n bytes more of the body, by and by.
func (s *stream) giveBack(n int64) (told bool) {
	if s.ended || s.err != nil {
		return false
	}
	if s.credit += n; s.credit < streamWindow/2 {
		return false
	}
	s.conn.appendWindow(s.id, s.credit)
	s.receive += s.credit
	s.credit = 0
	return true
}

var errBodyClosed = errors.New("http2: read of a closed body")

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	c := b.s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.expected && !b.closed {
		b.s.answer.proceed()
	}
	for {
		switch {
		case b.closed:
			return 0, errBodyClosed
		case b.tardy:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case b.read < len(b.data):
			n := copy(p, b.data[b.read:])
			if b.read += n; b.read == len(b.data) {
				b.data, b.read = b.data[:0], 0
			}
			if told := c.giveBack(int64(n)); b.s.giveBack(int64(n)) || told {
				c.flush(once)
			}
			return n, nil
		case b.err == io.EOF:
			for k := range b.s.request.Trailer {
				if v, ok := b.trailer[k]; ok {
					b.s.request.Trailer[k] = v
				}
			}
			return 0, io.EOF
		case b.err != nil:
			return 0, b.err
		}
		b.s.changed.Wait()
	}
}

// Close implements io.Closer.
func (b *body) Close() error {
	c := b.s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	b.close()
	return nil
}

// close gives back what nobody has read. It runs under the lock.
func (b *body) close() {
	if b.closed {
		return
	}
	b.closed = true
	b.s.conn.giveBack(int64(len(b.data) - b.read))
	b.data, b.read = nil, 0
	b.s.changed.Broadcast()
}

// expire runs when the time to read is over.
func (b *body) expire() {
	b.s.conn.mu.Lock()
	defer b.s.conn.mu.Unlock()
	b.tardy = true
	b.s.changed.Broadcast()
}
