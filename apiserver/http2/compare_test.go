// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"knarr.dev/apiserver/http2"
)

// start starts a server over TLS; ours unless std.
func start(t testing.TB, std bool, h http.Handler, change func(*http.Server)) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.MaxHeaderBytes = 8 << 10
	if change != nil {
		change(s.Config)
	}
	if !std {
		http2.Attach(s.Config, http2.Options{})
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// exchange is one request with its handler.
type exchange struct {
	name    string
	method  string // GET if empty
	path    string // / if empty
	header  http.Header
	trailer http.Header
	body    func() io.Reader
	handler http.HandlerFunc
	config  func(*http.Server)
}

func text(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }

// stream is text of unknown length.
func stream(s string) func() io.Reader {
	return func() io.Reader { return io.MultiReader(strings.NewReader(s)) }
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%d bytes, %v, trailer %v, %x", len(b), err, r.Trailer, sum(b))
}

func sum(b []byte) (n int) {
	for _, c := range b {
		n = n*31 + int(c)
	}
	return n
}

// tell writes what a handler sees of a request.
func tell(w http.ResponseWriter, r *http.Request) {
	_, port, _ := net.SplitHostPort(r.RemoteAddr)
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprintf(w, "%s %s %s %d.%d\nurl %#v\nhost %v length %d trailer %v close %v encoding %v form %v\n", r.Method, r.RequestURI, r.Proto, r.ProtoMajor, r.ProtoMinor,
		r.URL.String(), r.Host != "", r.ContentLength, r.Trailer, r.Close, r.TransferEncoding, r.Form)
	fmt.Fprintf(w, "tls %v %v remote %v server %v local %v\n", r.TLS != nil, r.TLS.NegotiatedProtocol, port != "", server != nil, local != nil)
	for _, k := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %q\n", k, r.Header[k])
	}
	deadline, ok := r.Context().Deadline()
	fmt.Fprint(w, deadline, ok, r.Context().Err(), "\n")
}

// exchanges are requests whose answers must be those of net/http.
var exchanges = []exchange{
	{name: "what a handler sees", path: "/a/b%20c?d=e&f", header: http.Header{"X-Some": {"1", "2"}, "Cookie": {"a=b; c=d"}, "Accept": {"*/*"}}, handler: tell},
	{name: "POST", method: "POST", body: text("hello"), handler: tell},
	{name: "POST of unknown length", method: "POST", body: stream("hello"), handler: tell},
	{name: "POST without body", method: "POST", handler: tell},
	{name: "trailers announced", method: "PUT", body: stream("hello"), trailer: http.Header{"X-Late": {"v"}}, handler: tell},
	{name: "OPTIONS", method: "OPTIONS", path: "*", handler: tell},
	{name: "another method", method: "PURGE", handler: tell},
	{name: "echo", method: "POST", body: text(strings.Repeat("x", 5000)), handler: echo},
	{name: "echo of much", method: "POST", body: text(strings.Repeat("xyz", 1<<20)), handler: echo},
	{name: "echo of a stream", method: "POST", body: stream(strings.Repeat("xyz", 1<<20)), handler: echo},
	{name: "echo with trailers", method: "POST", body: stream("abc"), trailer: http.Header{"X-Late": {"v", "w"}}, handler: echo},
	{name: "nothing", handler: func(http.ResponseWriter, *http.Request) {}},
	{name: "code alone", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) }},
	{name: "code twice", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); w.WriteHeader(404) }},
	{name: "header after the code", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-A", "before")
		w.WriteHeader(200)
		w.Header().Set("X-A", "after")
		_, _ = io.WriteString(w, "x")
	}},
	{name: "guessed type", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html><body>") }},
	{name: "guessed type of pieces", handler: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<ht")
		_, _ = io.WriteString(w, "ml>")
	}},
	{name: "type and date", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"], w.Header()["Date"] = nil, nil
		_, _ = io.WriteString(w, "<html>")
	}},
	{name: "encoded", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "odd")
		_, _ = io.WriteString(w, "<html>")
	}},
	{name: "length given", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "3")
		_, _ = io.WriteString(w, "abc")
	}},
	{name: "length wrong", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "x")
		_, _ = io.WriteString(w, "abc")
	}},
	{name: "less than the length", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		_, _ = io.WriteString(w, "abc")
	}},
	{name: "more than the length", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, err := io.WriteString(w, "ab")
		w.(http.Flusher).Flush()
		_, more := io.WriteString(w, "c")
		w.Header().Set("X-Error", fmt.Sprint(err, more))
	}},
	{name: "long", handler: func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = w.Write(bytes.Repeat([]byte("y"), 7777))
		}
	}},
	{name: "long in one", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("y"), 6<<20)) }},
	{name: "just below a draft", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("y"), 4095)) }},
	{name: "above a draft", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("y"), 4097)) }},
	{name: "flushed", handler: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one")
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "two")
		_, _ = w.Write(bytes.Repeat([]byte("y"), 1000))
		_ = http.NewResponseController(w).Flush()
	}},
	{name: "flushed before all", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-A", "b")
		w.(http.Flusher).Flush()
		w.Header().Set("X-A", "c")
	}},
	{name: "HEAD", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }},
	{name: "HEAD of nothing", method: "HEAD", handler: func(http.ResponseWriter, *http.Request) {}},
	{name: "HEAD with length", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "77") }},
	{name: "HEAD of much", method: "HEAD", handler: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }},
	{name: "204", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(204)
		if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
			panic(err)
		}
	}},
	{name: "304", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", "x")
		w.WriteHeader(http.StatusNotModified)
	}},
	{name: "trailers", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Late, X-Not")
		_, _ = io.WriteString(w, "x")
		w.Header().Set("X-Late", "yes")
		w.Header().Set(http.TrailerPrefix+"X-Later", "too")
	}},
	{name: "trailers without body", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Late")
		w.Header().Set("X-Late", "yes")
	}},
	{name: "trailers announced and not sent", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-Late")
		_, _ = io.WriteString(w, "x")
	}},
	{name: "headers of the connection", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "x")
	}},
	{name: "odd headers", handler: func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["x-lower"], h["X Space"], h["X-Bad"], h["X-Many"] = []string{"1"}, []string{"2"}, []string{"a\r\nb"}, []string{"1", "2", ""}
	}},
	{name: "large header", handler: func(w http.ResponseWriter, _ *http.Request) {
		for i := range 100 {
			w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat(fmt.Sprint(i%7), 700))
		}
	}},
	{name: "early hints", handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style>")
		w.WriteHeader(103)
		w.WriteHeader(102)
		_, _ = io.WriteString(w, "x")
	}},
	{name: "continue", method: "POST", header: http.Header{"Expect": {"100-continue"}}, body: text("abc"), handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Expect", fmt.Sprint(r.Header["Expect"]))
		echo(w, r)
	}},
	{name: "continue not needed", method: "POST", header: http.Header{"Expect": {"100-continue"}}, body: text("abc"), handler: func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(403)
	}},
	{name: "panic", handler: func(http.ResponseWriter, *http.Request) { panic("oh") }},
	{name: "abort", handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	{name: "abort midway", handler: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}},
	{name: "body not read", method: "POST", body: stream(strings.Repeat("z", 1<<20)), handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(409) }},
	{name: "body closed", method: "POST", body: text(strings.Repeat("z", 3000)), handler: func(w http.ResponseWriter, r *http.Request) {
		_ = r.Body.Close()
		_, err := r.Body.Read(make([]byte, 1))
		w.Header().Set("X-Failed", fmt.Sprint(err != nil))
	}},
	{name: "time to read is over", method: "POST", body: func() io.Reader { r, _ := io.Pipe(); return r }, handler: func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		_, err := r.Body.Read(make([]byte, 1))
		w.Header().Set("X-Over", fmt.Sprint(errors.Is(err, os.ErrDeadlineExceeded)))
	}},
	{name: "time to write is over", handler: func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0))
		<-r.Context().Done()
	}},
	{name: "WriteTimeout", config: func(s *http.Server) { s.WriteTimeout = time.Second }, handler: func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	{name: "ReadTimeout", method: "POST", config: func(s *http.Server) { s.ReadTimeout = time.Second }, body: func() io.Reader { r, _ := io.Pipe(); return r },
		handler: func(w http.ResponseWriter, r *http.Request) {
			_, err := r.Body.Read(make([]byte, 1))
			w.Header().Set("X-Over", fmt.Sprint(errors.Is(err, os.ErrDeadlineExceeded)))
		}},
	{name: "deadlines and more", handler: func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_, _, hijack := c.Hijack()
		fmt.Fprint(w, c.SetReadDeadline(time.Now().Add(time.Hour)), c.SetWriteDeadline(time.Now().Add(time.Hour)), c.EnableFullDuplex(), errors.Is(hijack, errors.ErrUnsupported),
			c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}))
	}},
	{name: "full duplex", method: "POST", body: stream(strings.Repeat("a", 1<<20)), handler: func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_, _ = io.Copy(w, r.Body)
	}},
	{name: "http.Error", handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) }},
	{name: "body of a code without", handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotModified) }},
	{name: "refused by header", header: http.Header{"Te": {"gzip"}}, handler: tell},
	{name: "TE", header: http.Header{"Te": {"trailers"}}, handler: tell},
	{name: "many cookies", header: http.Header{"Cookie": {"a=1; b=2; c=3"}}, handler: tell},
}

// say is what the client sees of an exchange.
func (e *exchange) say(t *testing.T, std bool) string {
	served := make(chan struct{})
	s := start(t, std, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		e.handler(w, r)
	}), e.config)
	var out strings.Builder
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			fmt.Fprintln(&out, "informed", code, h)
			return nil
		},
	})
	var body io.Reader
	if e.body != nil {
		body = e.body()
	}
	method, path := e.method, e.path
	if method == "" {
		method = "GET"
	}
	r, err := http.NewRequestWithContext(ctx, method, s.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	if path == "*" {
		r.URL = &url.URL{Scheme: "https", Host: r.URL.Host, Opaque: "*"}
	} else if path != "" {
		r.URL, _ = url.Parse(s.URL + path)
	}
	if e.header != nil {
		r.Header = e.header.Clone()
	}
	r.Trailer = e.trailer
	res, err := s.Client().Do(r)
	if err != nil {
		fmt.Fprintln(&out, "error", plain(err, s))
		return out.String()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	fmt.Fprintln(&out, res.Proto, res.StatusCode, res.ContentLength, plain(err, s))
	if d := res.Header.Get("Date"); d != "" {
		_, err := http.ParseTime(d)
		res.Header.Set("Date", fmt.Sprint(err))
	}
	fmt.Fprintln(&out, res.Header, res.Trailer, len(b), sum(b))
	if len(b) < 2000 {
		fmt.Fprintf(&out, "%s\n", b)
	}
	return out.String()
}

func plain(err error, s *httptest.Server) string {
	return strings.ReplaceAll(fmt.Sprint(err), s.URL, "URL")
}

// TestCompare has the same handlers served by net/http and by this package, and compares what a client sees.
func TestCompare(t *testing.T) {
	for i := range exchanges {
		e := &exchanges[i]
		t.Run(strings.ReplaceAll(e.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			if want, got := e.say(t, true), e.say(t, false); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestCancel: a handler learns of it when its client gives up, and when the connection breaks.
func TestCancel(t *testing.T) {
	for name, give := range map[string]func(context.CancelFunc, *httptest.Server){
		"request":    func(cancel context.CancelFunc, _ *httptest.Server) { cancel() },
		"connection": func(_ context.CancelFunc, s *httptest.Server) { s.CloseClientConnections() },
	} {
		t.Run(name, func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan error, 1)
			s := start(t, false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(began)
				<-r.Context().Done()
				ended <- r.Context().Err()
			}), nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "GET", s.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-began
				give(cancel, s)
			}()
			if _, err := s.Client().Do(r); err == nil {
				t.Error("answered")
			}
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}
