// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	wire "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is a client that sends frames as it likes.
type raw struct {
	t   testing.TB
	nc  *tls.Conn
	fr  *wire.Framer
	buf bytes.Buffer
	enc *hpack.Encoder
	out bytes.Buffer // of fr
}

// connect opens a connection, and says nothing.
func connect(t testing.TB, s *httptest.Server) *raw {
	t.Helper()
	nc, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	r := &raw{t: t, nc: nc}
	r.fr = wire.NewFramer(&r.out, nc)
	r.fr.AllowIllegalWrites = true
	r.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.enc = hpack.NewEncoder(&r.buf)
	return r
}

// greet is connect with what every client says.
func greet(t testing.TB, s *httptest.Server, settings ...wire.Setting) *raw {
	r := connect(t, s)
	r.out.WriteString(wire.ClientPreface)
	_ = r.fr.WriteSettings(settings...)
	return r
}

// send sends what was written so far.
func (r *raw) send() {
	_, _ = r.nc.Write(r.out.Bytes()) // the server may have closed
	r.out.Reset()
}

// block encodes fields: name, value, name, value.
func (r *raw) block(fields ...string) []byte {
	r.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(r.buf.Bytes())
}

func request(method string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":path", "/", ":authority", "x"}, more...)
}

// open writes HEADERS.
func (r *raw) open(id uint32, end bool, fields ...string) {
	_ = r.fr.WriteHeaders(wire.HeadersFrameParam{StreamID: id, BlockFragment: r.block(fields...), EndStream: end, EndHeaders: true})
}

// outcome reads until something is decided.
func (r *raw) outcome() string {
	r.send()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			return fmt.Sprint("closed ", err)
		}
		switch f := f.(type) {
		case *wire.GoAwayFrame:
			return "GOAWAY " + f.ErrCode.String()
		case *wire.RSTStreamFrame:
			return fmt.Sprint("RST ", f.StreamID, " ", f.ErrCode)
		case *wire.MetaHeadersFrame:
			return fmt.Sprint("HEADERS ", f.StreamID, " ", f.PseudoValue("status"))
		}
	}
}

// until reads until a frame is as wanted.
func (r *raw) until(want func(wire.Frame) bool) {
	r.t.Helper()
	r.send()
	for {
		f, err := r.fr.ReadFrame()
		if err != nil {
			r.t.Fatal(err)
		}
		if want(f) {
			return
		}
	}
}

func get(id uint32) func(*raw) { return func(r *raw) { r.open(id, true, request("GET")...) } }

func frame(kind wire.FrameType, flags wire.Flags, id uint32, payload string) func(*raw) {
	return func(r *raw) { _ = r.fr.WriteRawFrame(kind, flags, id, []byte(payload)) }
}

func fields(end bool, f ...string) func(*raw) { return func(r *raw) { r.open(1, end, f...) } }

func then(steps ...func(*raw)) func(*raw) {
	return func(r *raw) {
		for _, s := range steps {
			s(r)
		}
	}
}

// TestFrames sends what clients must not, and some of what they may.
func TestFrames(t *testing.T) {
	const ack, endHeaders = wire.FlagSettingsAck, wire.FlagHeadersEndHeaders
	post := func(more ...string) func(*raw) { return fields(false, request("POST", more...)...) }
	data := func(end bool, text string) func(*raw) {
		return func(r *raw) { _ = r.fr.WriteData(1, end, []byte(text)) }
	}
	update := func(id, n uint32) func(*raw) {
		return frame(wire.FrameWindowUpdate, 0, id, string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}))
	}
	answered := func(r *raw) {
		r.until(func(f wire.Frame) bool { d, ok := f.(*wire.DataFrame); return ok && d.StreamEnded() })
	}
	for _, c := range []struct {
		name string
		send func(*raw)
		want string
	}{
		{"request", get(1), "HEADERS 1 200"},
		{"unknown frame", then(frame(0x77, 0xff, 9, "abc"), get(1)), "HEADERS 1 200"},
		{"priority", then(frame(wire.FramePriority, 0, 3, "abcde"), get(1)), "HEADERS 1 200"},
		{"priority too short", frame(wire.FramePriority, 0, 3, "abcd"), "RST 3 FRAME_SIZE_ERROR"},
		{"priority of nothing", frame(wire.FramePriority, 0, 0, "abcde"), "GOAWAY PROTOCOL_ERROR"},
		{"padded", then(post(), func(r *raw) { _ = r.fr.WriteDataPadded(1, true, []byte("abc"), make([]byte, 200)) }), "HEADERS 1 200"},
		{"padding too long", then(post(), frame(wire.FrameData, wire.FlagDataPadded, 1, "\xffabc")), "GOAWAY PROTOCOL_ERROR"},
		{"even stream", get(2), "GOAWAY PROTOCOL_ERROR"},
		{"stream 0", get(0), "GOAWAY PROTOCOL_ERROR"},
		{"old stream", then(get(5), answered, get(3)), "GOAWAY STREAM_CLOSED"},
		{"DATA of nothing", frame(wire.FrameData, 0, 0, "a"), "GOAWAY PROTOCOL_ERROR"},
		{"DATA before HEADERS", frame(wire.FrameData, 0, 1, "a"), "GOAWAY PROTOCOL_ERROR"},
		{"DATA after the end", then(post("x-wait", "y"), data(true, "a"), data(false, "b")), "RST 1 STREAM_CLOSED"},
		{"DATA of a closed stream", then(get(1), answered, data(false, "b")), "RST 1 STREAM_CLOSED"},
		{"window of nothing", update(0, 0), "GOAWAY PROTOCOL_ERROR"},
		{"window too large", update(0, 1<<31-1), "GOAWAY FLOW_CONTROL_ERROR"},
		{"window of a stream of nothing", then(post("x-wait", "y"), update(1, 0)), "RST 1 PROTOCOL_ERROR"},
		{"window of a stream too large", then(post("x-wait", "y"), update(1, 1<<31-1)), "RST 1 FLOW_CONTROL_ERROR"},
		{"window of an unknown stream", update(1, 1), "GOAWAY PROTOCOL_ERROR"},
		{"window without length", frame(wire.FrameWindowUpdate, 0, 0, "abc"), "GOAWAY FRAME_SIZE_ERROR"},
		{"reset of nothing", frame(wire.FrameRSTStream, 0, 0, "abcd"), "GOAWAY PROTOCOL_ERROR"},
		{"reset of an unknown stream", frame(wire.FrameRSTStream, 0, 1, "abcd"), "GOAWAY PROTOCOL_ERROR"},
		{"reset too long", then(post("x-wait", "y"), frame(wire.FrameRSTStream, 0, 1, "abcde")), "GOAWAY FRAME_SIZE_ERROR"},
		{"settings of a stream", frame(wire.FrameSettings, 0, 1, ""), "GOAWAY PROTOCOL_ERROR"},
		{"settings too short", frame(wire.FrameSettings, 0, 0, "abcde"), "GOAWAY FRAME_SIZE_ERROR"},
		{"settings acknowledged at length", frame(wire.FrameSettings, ack, 0, "abcdef"), "GOAWAY FRAME_SIZE_ERROR"},
		{"push", frame(wire.FrameSettings, 0, 0, "\x00\x02\x00\x00\x00\x02"), "GOAWAY PROTOCOL_ERROR"},
		{"initial window", frame(wire.FrameSettings, 0, 0, "\x00\x04\xff\x00\x00\x00"), "GOAWAY FLOW_CONTROL_ERROR"},
		{"size of frames", frame(wire.FrameSettings, 0, 0, "\x00\x05\x00\x00\x00\x01"), "GOAWAY PROTOCOL_ERROR"},
		{"ping of a stream", frame(wire.FramePing, 0, 1, "abcdefgh"), "GOAWAY PROTOCOL_ERROR"},
		{"ping too short", frame(wire.FramePing, 0, 0, "abcdefg"), "GOAWAY FRAME_SIZE_ERROR"},
		{"goaway of a stream", frame(wire.FrameGoAway, 0, 1, "abcdefgh"), "GOAWAY PROTOCOL_ERROR"},
		{"goaway too short", frame(wire.FrameGoAway, 0, 0, "abcdefg"), "GOAWAY FRAME_SIZE_ERROR"},
		{"goaway", frame(wire.FrameGoAway, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x00"), "GOAWAY NO_ERROR"},
		{"push promise", frame(wire.FramePushPromise, 0, 1, "abcdefg"), "GOAWAY PROTOCOL_ERROR"},
		{"continuation of nothing", frame(wire.FrameContinuation, endHeaders, 1, ""), "GOAWAY PROTOCOL_ERROR"},
		{"interrupted header", then(frame(wire.FrameHeaders, 0, 1, ""), frame(wire.FramePing, 0, 0, "abcdefgh")), "GOAWAY PROTOCOL_ERROR"},
		{"continued header", func(r *raw) {
			b := r.block(request("GET")...)
			_ = r.fr.WriteHeaders(wire.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], EndStream: true})
			_ = r.fr.WriteContinuation(1, false, b[3:5])
			_ = r.fr.WriteContinuation(1, true, b[5:])
		}, "HEADERS 1 200"},
		{"compression", frame(wire.FrameHeaders, endHeaders, 1, "\xff\xff\xff\xff"), "GOAWAY COMPRESSION_ERROR"},
		{"frame too large", frame(wire.FrameData, 0, 1, strings.Repeat("x", 16385)), "GOAWAY FRAME_SIZE_ERROR"},
		{"upper case", fields(true, request("GET", "X-Upper", "a")...), "RST 1 PROTOCOL_ERROR"},
		{"odd name", fields(true, request("GET", "x y", "a")...), "RST 1 PROTOCOL_ERROR"},
		{"odd value", fields(true, request("GET", "x", "a\nb")...), "RST 1 PROTOCOL_ERROR"},
		{"unknown pseudo", fields(true, request("GET", ":x", "a")...), "RST 1 PROTOCOL_ERROR"},
		{"pseudo of answers", fields(true, append([]string{":status", "200"}, request("GET")...)...), "RST 1 PROTOCOL_ERROR"},
		{"late pseudo", fields(true, ":method", "GET", ":scheme", "https", "a", "b", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
		{"pseudo twice", fields(true, request("GET", ":path", "/")...), "RST 1 PROTOCOL_ERROR"},
		{"no path", fields(true, ":method", "GET", ":scheme", "https"), "RST 1 PROTOCOL_ERROR"},
		{"empty path", fields(true, ":method", "GET", ":scheme", "https", ":path", ""), "RST 1 PROTOCOL_ERROR"},
		{"odd path", fields(true, ":method", "GET", ":scheme", "https", ":path", "a b"), "RST 1 PROTOCOL_ERROR"},
		{"no scheme", fields(true, ":method", "GET", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
		{"odd scheme", fields(true, ":method", "GET", ":scheme", "ftp", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
		{"no method", fields(true, ":scheme", "https", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
		{"CONNECT", fields(true, ":method", "CONNECT", ":authority", "x:1"), "HEADERS 1 200"},
		{"CONNECT with path", fields(true, request("CONNECT")...), "RST 1 PROTOCOL_ERROR"},
		{"extended CONNECT", fields(true, append(request("CONNECT"), ":protocol", "websocket")...), "RST 1 PROTOCOL_ERROR"},
		{"header of the connection", fields(true, request("GET", "connection", "close")...), "HEADERS 1 400"},
		{"transfer encoding", fields(true, request("GET", "transfer-encoding", "chunked")...), "HEADERS 1 400"},
		{"length and no body", fields(true, request("POST", "content-length", "3")...), "RST 1 PROTOCOL_ERROR"},
		{"odd length", post("content-length", "-3"), "RST 1 PROTOCOL_ERROR"},
		{"two lengths", post("content-length", "3", "content-length", "4"), "RST 1 PROTOCOL_ERROR"},
		{"more than the length", then(post("content-length", "3"), data(false, "abcd")), "RST 1 PROTOCOL_ERROR"},
		{"less than the length", then(post("content-length", "3"), data(true, "ab")), "RST 1 PROTOCOL_ERROR"},
		{"less, with trailers", then(post("content-length", "3"), data(false, "ab"), fields(true, "x", "y")), "RST 1 PROTOCOL_ERROR"},
		{"trailers", then(post("trailer", "x"), data(false, "ab"), fields(true, "x", "y")), "HEADERS 1 200"},
		{"trailers without end", then(post(), fields(false, "x", "y")), "RST 1 PROTOCOL_ERROR"},
		{"trailers with pseudo", then(post(), fields(true, ":path", "/")), "RST 1 PROTOCOL_ERROR"},
		{"trailers after the end", then(post("x-wait", "y"), data(true, "a"), fields(true, "x", "y")), "RST 1 STREAM_CLOSED"},
		{"header too large", fields(true, request("GET", strings.Split(strings.Repeat("x "+strings.Repeat("v", 500)+" ", 20)+"x v", " ")...)...), "HEADERS 1 431"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			s := start(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Wait") != "" {
					<-r.Context().Done()
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "ok")
			}), nil)
			r := greet(t, s)
			c.send(r)
			if got := r.outcome(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestBeginnings: what does not begin like HTTP/2 is refused.
func TestBeginnings(t *testing.T) {
	s := start(t, false, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil)
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", wire.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh"} {
		r := connect(t, s)
		r.out.WriteString(text)
		if got := r.outcome(); got != "GOAWAY PROTOCOL_ERROR" {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// TestCookies: crumbs of cookies become one header.
func TestCookies(t *testing.T) {
	said := make(chan []string, 1)
	s := start(t, false, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { said <- r.Header["Cookie"] }), nil)
	r := greet(t, s)
	r.open(1, true, request("GET", "cookie", "a=b", "cookie", "c=d")...)
	r.send()
	if got := <-said; len(got) != 1 || got[0] != "a=b; c=d" {
		t.Errorf("%q", got)
	}
}

// TestEarlyAnswer: a client that has not sent all is told to stop, but after the answer.
func TestEarlyAnswer(t *testing.T) {
	s := start(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusConflict) }), nil)
	r := greet(t, s)
	r.open(1, false, request("POST")...)
	r.open(3, false, request("POST")...)
	headers := 0
	r.until(func(f wire.Frame) bool {
		if _, ok := f.(*wire.MetaHeadersFrame); ok {
			headers++
		}
		return headers == 2
	})
	_ = r.fr.WriteData(1, false, []byte("more"))
	_ = r.fr.WriteData(3, true, []byte("all"))
	if got := r.outcome(); got != "RST 1 NO_ERROR" {
		t.Error(got)
	}
}

// TestResetBody: a body that nobody read before the client gave up does not look like one that ends.
func TestResetBody(t *testing.T) {
	began, read := make(chan struct{}), make(chan error, 1)
	s := start(t, false, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		_, err := io.ReadAll(r.Body)
		read <- err
	}), nil)
	r := greet(t, s)
	r.open(1, false, request("DELETE")...)
	_ = r.fr.WriteData(1, true, []byte("only if"))
	r.send()
	<-began
	_ = r.fr.WriteRSTStream(1, wire.ErrCodeCancel)
	r.send()
	if err := <-read; err == nil {
		t.Error("read a part as if it were all")
	}
}

// TestHost: the header Host stands in for :authority.
func TestHost(t *testing.T) {
	for _, std := range []bool{true, false} {
		for want, f := range map[string][]string{
			"a map[]":         {":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a"},
			"b map[Host:[b]]": {":method", "GET", ":scheme", "https", ":path", "/", "host", "b"},
			"a map[Host:[b]]": {":method", "GET", ":scheme", "https", ":path", "/", ":authority", "a", "host", "b"},
		} {
			said := make(chan string, 1)
			s := start(t, std, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { said <- fmt.Sprint(r.Host, " ", r.Header) }), nil)
			r := greet(t, s)
			r.open(1, true, f...)
			r.send()
			if got := <-said; got != want {
				t.Errorf("%v: %s, want %s", std, got, want)
			}
		}
	}
}

// TestWindows: answers keep to the windows of the client, each stream to its own.
func TestWindows(t *testing.T) {
	s := start(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 300<<10)) }), nil)
	r := greet(t, s, wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1000})
	r.open(1, true, request("GET")...)
	r.open(3, true, request("GET")...)
	got := map[uint32]int{}
	take := func(f wire.Frame) (d *wire.DataFrame) {
		if d, ok := f.(*wire.DataFrame); ok {
			got[d.StreamID] += len(d.Data())
			return d
		}
		return nil
	}
	r.until(func(f wire.Frame) bool { take(f); return got[1] == 1000 && got[3] == 1000 })
	_ = r.fr.WriteWindowUpdate(3, 500)
	r.until(func(f wire.Frame) bool { take(f); return got[3] == 1500 })
	_ = r.fr.WriteSettings(wire.Setting{ID: wire.SettingInitialWindowSize, Val: 1 << 20})
	r.until(func(f wire.Frame) bool { take(f); return got[1]+got[3] == 65535 }) // the connection's
	_ = r.fr.WriteWindowUpdate(0, 1<<20)
	ends := 0
	r.until(func(f wire.Frame) bool {
		if d := take(f); d != nil && d.StreamEnded() {
			ends++
		}
		return ends == 2
	})
	if got[1] != 300<<10 || got[3] != 300<<10 {
		t.Error(got)
	}
}

// TestShutdown: requests in flight are finished, clients told to go, and connections closed.
func TestShutdown(t *testing.T) {
	began, end := make(chan struct{}, 2), make(chan struct{})
	s := start(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-end
		_, _ = io.WriteString(w, "ok")
	}), nil)
	r := greet(t, s)
	r.open(1, true, request("GET")...)
	r.send()
	<-began
	done := make(chan error, 1)
	go func() { done <- s.Config.Shutdown(context.Background()) }()
	r.until(func(f wire.Frame) bool { g, ok := f.(*wire.GoAwayFrame); return ok && g.LastStreamID == 1<<31-1 })
	r.open(3, true, request("GET")...) // as if it had been on its way
	r.send()
	<-began
	r.until(func(f wire.Frame) bool {
		p, ok := f.(*wire.PingFrame)
		if ok {
			_ = r.fr.WritePing(true, p.Data)
		}
		return ok
	})
	r.open(5, true, request("GET")...) // too late
	r.until(func(f wire.Frame) bool { g, ok := f.(*wire.GoAwayFrame); return ok && g.LastStreamID == 3 })
	close(end)
	ends := 0
	r.until(func(f wire.Frame) bool {
		if d, ok := f.(*wire.DataFrame); ok && d.StreamEnded() {
			ends++
		}
		return ends == 2
	})
	if f, err := r.fr.ReadFrame(); err == nil {
		t.Errorf("after the last answer: %v", f)
	}
	_ = r.nc.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTimeouts: a connection ends that is idle, or whose header does not come.
func TestTimeouts(t *testing.T) {
	for name, c := range map[string]struct {
		config func(*http.Server)
		send   func(*raw)
		want   string
	}{
		"idle":   {func(s *http.Server) { s.IdleTimeout = 30 * time.Millisecond }, func(*raw) {}, "GOAWAY NO_ERROR"},
		"header": {func(s *http.Server) { s.ReadHeaderTimeout = 30 * time.Millisecond }, frame(wire.FrameHeaders, 0, 1, ""), "GOAWAY NO_ERROR"},
	} {
		s := start(t, false, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), c.config)
		r := greet(t, s)
		c.send(r)
		if got := r.outcome(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if _, err := io.Copy(io.Discard, r.nc); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
