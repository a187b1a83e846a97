// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/api"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/store/pebble"
)

// ending is a server with a listener that a test ends.
type ending struct {
	t      *testing.T
	server *apiserver.Server
	base   string
	stop   func()
	done   chan error
}

func startEnding(t *testing.T, end apiserver.Shutdown) *ending {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{
		Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Authenticators: []authn.Authenticator{admin{}},
		Listener: l, Shutdown: end,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &ending{t: t, server: s, base: "http://" + l.Addr().String(), stop: cancel, done: make(chan error, 1)}
	go func() { e.done <- s.Run(ctx) }()
	<-s.Ready()
	return e
}

// code is what a new connection gets; 0 if there is none.
func (e *ending) code(path string) (int, http.Header) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(e.base + path)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header
}

func (e *ending) expect(when string, want map[string]int) {
	e.t.Helper()
	for path, code := range want {
		if got, _ := e.code(path); got != code {
			e.t.Errorf("%s: %s is %d, want %d", when, path, got, code)
		}
	}
}

// watch opens a watch and returns what waits for its end.
func (e *ending) watch() (ended func() error) {
	e.t.Helper()
	res, err := http.Get(e.base + "/api/v1/namespaces?watch=1")
	if err != nil {
		e.t.Fatal(err)
	}
	first := bufio.NewReader(res.Body)
	if _, err := first.ReadString('\n'); err != nil {
		e.t.Fatal(err)
	}
	return func() error {
		defer res.Body.Close()
		_, err := io.Copy(io.Discard, first)
		return err
	}
}

// slow begins a write whose body comes later; finish sends the rest and returns the answer.
func (e *ending) slow() (finish func() (*http.Response, error)) {
	e.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.base, "http://"))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	const body = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"slow"}}`
	fmt.Fprintf(conn, "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", len(body))
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // the server reads the body
		e.t.Fatalf("%q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		e.t.Fatal(err)
	}
	return func() (*http.Response, error) {
		if _, err := io.WriteString(conn, body); err != nil {
			return nil, err
		}
		return http.ReadResponse(r, nil)
	}
}

const object = "/api/v1/namespaces/default"

func TestShutdownWithRetryAfter(t *testing.T) {
	e := startEnding(t, apiserver.Shutdown{SendRetryAfter: true})
	ended, finish := e.watch(), e.slow()
	e.server.Drain()
	e.expect("draining", map[string]int{"/readyz": 500, "/readyz/shutdown": 500, "/livez": 200, "/healthz": 200, object: 200})
	e.stop()
	if err := ended(); err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	e.expect("ending", map[string]int{"/readyz": 500, "/livez": 200, object: 429, "/metrics": 429})
	if _, h := e.code(object); h.Get("Retry-After") != "5" || h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("refused with %v", h)
	}
	if res, err := finish(); err != nil || res.StatusCode != 201 {
		t.Errorf("the request in flight: %v, %v", res, err)
	}
	if err := <-e.done; err != nil {
		t.Error(err)
	}
	e.expect("ended", map[string]int{object: 0})
}

func TestShutdown(t *testing.T) {
	e := startEnding(t, apiserver.Shutdown{Delay: time.Millisecond, WatchGrace: time.Second})
	ended, finish := e.watch(), e.slow()
	e.stop()
	if err := ended(); err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	for code := -1; code != 0; { // the listener closes while the request is in flight
		code, _ = e.code("/livez")
	}
	select {
	case err := <-e.done:
		t.Fatalf("ended before the request in flight: %v", err)
	default:
	}
	if res, err := finish(); err != nil || res.StatusCode != 201 || !res.Close {
		t.Errorf("the request in flight: %v, %v", res, err)
	}
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}
