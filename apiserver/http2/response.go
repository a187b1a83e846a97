// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// response is the answer to a request, as its handler writes it. But for deadlines it is for one goroutine.
type response struct {
	stream *stream
	header http.Header

	status   int  // 0 until there is one
	sent     bool // the header
	done     bool // the handler has returned
	declared int64
	written  int64
	draft    *draft
	trailers []string // names that were announced
}

// draft is what an answer keeps until it is sent.
type draft struct {
	fields []field
	body   []byte
	length string // Content-Length
	typed  bool   // has Content-Type, or cannot be guessed from the body
	dated  bool
	leave  bool // the connection ends after this answer
}

// What an answer keeps: as much as net/http's, whose Content-Length is added to answers that are not longer; and more if the handler
// says how long the answer is.
const (
	draftMax      = 4 << 10
	draftDeclared = 16 << 10
	draftKeep     = 32 << 10
	directMin     = 512 // pieces of a stream are not kept if they have so many bytes
)

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// note makes sure that there is a draft.
func (w *response) note() *draft {
	if w.draft == nil {
		if w.draft, _ = w.stream.conn.server.drafts.Get().(*draft); w.draft == nil {
			w.draft = &draft{}
		}
	}
	return w.draft
}

// discard gives the draft back.
func (w *response) discard() {
	d := w.draft
	if w.draft = nil; d == nil || cap(d.body) > draftKeep || cap(d.fields) > 64 {
		return
	}
	clear(d.fields)
	*d = draft{fields: d.fields[:0], body: d.body[:0]}
	w.stream.conn.server.drafts.Put(d)
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(code int) {
	if w.status != 0 || w.done {
		return
	}
	if code < 100 || code > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", code))
	}
	if code < 200 {
		w.inform(code)
		return
	}
	w.status, w.declared = code, -1
	d := w.note()
	d.fields = append(d.fields, status(code))
	for k, values := range w.header {
		w.noteHeader(d, k, values)
	}
}

// noteHeader takes what the handler says of one header.
func (w *response) noteHeader(d *draft, k string, values []string) {
	n := nameOf(k)
	if n == nil { // so are those with http.TrailerPrefix
		return
	}
	switch n.role {
	case lengthOf:
		if len(values) == 0 {
			return
		}
		if n, err := strconv.ParseUint(values[0], 10, 63); err == nil {
			w.declared, d.length = int64(n), values[0]
		}
		return
	case typeOf:
		d.typed = true
	case codingOf:
		d.typed = d.typed || len(values) > 0 && values[0] != ""
	case dateOf:
		d.dated = true
	case trailerOf:
		w.announce(values)
	case leaveOf:
		d.leave = len(values) > 0 && values[0] == "close"
		return
	case forbidden:
		return
	}
	d.fields = n.append(d.fields, values)
}

// announce notes the names of trailers.
func (w *response) announce(values []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			if k := http.CanonicalHeaderKey(strings.TrimSpace(name)); httpguts.ValidTrailerHeader(k) && !slices.Contains(w.trailers, k) {
				w.trailers = append(w.trailers, k)
			}
		}
	}
}

// append appends the valid fields of one header.
func (n *name) append(fields []field, values []string) []field {
	for _, v := range values {
		if httpguts.ValidHeaderFieldValue(v) {
			fields = append(fields, field{name: n.wire, value: v, static: n.static, volatile: n.volatile})
		}
	}
	return fields
}

// appendHeader appends the fields of a header that may be in trailers and informational answers.
func appendHeader(fields []field, k string, values []string) []field {
	n := nameOf(k)
	if n == nil || n.role == forbidden || n.role == leaveOf || n.role == lengthOf {
		return fields
	}
	return n.append(fields, values)
}

// inform sends an informational answer.
func (w *response) inform(code int) {
	if code == http.StatusSwitchingProtocols {
		return // HTTP/2 has none
	}
	fields := []field{status(code)}
	for k, values := range w.header {
		fields = appendHeader(fields, k, values)
	}
	c := w.stream.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.stream.err == nil {
		w.stream.body.expected = w.stream.body.expected && code != http.StatusContinue
		c.appendFields(w.stream.id, false, fields)
		c.flush(once)
	}
}

// proceed tells a client that waits for it to send the body. It runs under the lock.
func (w *response) proceed() {
	s := w.stream
	s.body.expected = false
	if s.err == nil && !w.sent {
		s.conn.appendFields(s.id, false, []field{status(http.StatusContinue)})
		s.conn.flush(once)
	}
}

func bodyless(code int) bool { return code == http.StatusNoContent || code == http.StatusNotModified }

func (w *response) head() bool { return w.stream.request.Method == http.MethodHead }

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.done {
		return 0, errStream
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if bodyless(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.declared >= 0 && w.written > w.declared {
		return 0, http.ErrContentLength
	}
	if len(p) == 0 {
		return 0, nil
	}
	if w.keeps(len(p)) {
		d := w.note()
		d.body = append(d.body, p...)
		return len(p), nil
	}
	c := w.stream.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := w.sendDraft(p, false); err != nil {
		return 0, err
	}
	if w.head() {
		return len(p), nil
	}
	if err := w.stream.data(p, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(text string) (int, error) { return w.Write([]byte(text)) }

// keeps says whether the next n bytes wait for more.
func (w *response) keeps(n int) bool {
	has := 0
	if w.draft != nil {
		has = len(w.draft.body)
	}
	switch {
	case w.sent && has == 0 && n >= directMin:
		return false
	case !w.sent && w.declared >= 0:
		return has+n <= draftDeclared
	}
	return has+n <= draftMax
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError sends what was written.
func (w *response) FlushError() error {
	if w.done {
		return errStream
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	c := w.stream.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := w.sendDraft(nil, false); err != nil {
		return err
	}
	c.flush(once)
	return w.stream.err
}

// sendDraft sends the header, if it was not, and what is kept of the body; next comes after it. It runs under the lock.
func (w *response) sendDraft(next []byte, end bool) error {
	s := w.stream
	if s.err != nil {
		w.discard()
		return s.err
	}
	d := w.draft
	if !w.sent {
		if bare := w.sendHeader(d, next, end); bare {
			w.discard()
			return nil
		}
	}
	if d == nil || len(d.body) == 0 && !end {
		w.discard()
		if end {
			return s.data(nil, true)
		}
		return nil
	}
	err := s.data(d.body, end)
	w.discard()
	return err
}

// sendHeader appends the header, and tells whether there is nothing after it.
func (w *response) sendHeader(d *draft, next []byte, end bool) (bare bool) {
	c := w.stream.conn
	w.sent = true
	body := d.body
	if len(body) == 0 {
		body = next
	}
	if !d.typed && len(body) > 0 {
		d.fields = append(d.fields, field{name: "content-type", value: http.DetectContentType(body), static: 31})
	}
	if d.length == "" && w.done && !bodyless(w.status) && (len(d.body) > 0 || !w.head()) {
		d.length = strconv.Itoa(len(d.body))
	}
	if d.length != "" {
		d.fields = append(d.fields, field{name: "content-length", value: d.length, static: 28, volatile: true})
	}
	if !d.dated {
		d.fields = append(d.fields, field{name: "date", value: c.server.now(), static: 33})
	}
	bare = w.head() || bodyless(w.status) || end && len(d.body) == 0
	c.appendFields(w.stream.id, bare, d.fields)
	if d.leave {
		c.startLeaving()
	}
	return bare
}

// end sends what is left. It runs under the lock.
func (w *response) end() {
	w.done = true
	if w.status == 0 {
		w.done = false
		w.WriteHeader(http.StatusOK)
		w.done = true
	}
	late := w.lateTrailers()
	if w.sent && (w.head() || bodyless(w.status)) {
		w.discard()
		return
	}
	if len(late) == 0 {
		if w.sendDraft(nil, true) != nil {
			w.discard()
		}
		return
	}
	if w.sendDraft(nil, false) == nil && w.stream.err == nil {
		w.stream.conn.appendFields(w.stream.id, true, late)
	}
}

// lateTrailers are the trailers of the answer.
func (w *response) lateTrailers() []field {
	var fields []field
	for _, k := range w.trailers {
		fields = appendHeader(fields, k, w.header[k])
	}
	for k, values := range w.header {
		name, found := strings.CutPrefix(k, http.TrailerPrefix)
		if name = http.CanonicalHeaderKey(name); found && httpguts.ValidTrailerHeader(name) && !slices.Contains(w.trailers, name) {
			fields = appendHeader(fields, name, values)
		}
	}
	return fields
}

// status is the field of a status.
func status(code int) field { return field{name: ":status", value: statusText(code), static: 8} }

// statusText is a status as a number in text.
func statusText(code int) string {
	switch code {
	case http.StatusOK:
		return "200"
	case http.StatusCreated:
		return "201"
	case http.StatusNotFound:
		return "404"
	case http.StatusConflict:
		return "409"
	}
	return strconv.Itoa(code)
}
