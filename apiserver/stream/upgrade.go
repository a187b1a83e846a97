// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/streaming/pkg/httpstream"
)

func isUpgrade(r *http.Request) bool { return httpstream.IsUpgradeRequest(r) }

// upgrade sends r to location and, if the backend upgrades, joins the two connections until one side ends. An answer that
// refuses goes to the client as it is.
func (h *Handler) upgrade(w http.ResponseWriter, r *http.Request, location *url.URL, transport *http.Transport) error {
	backend, err := h.open(r, location, transport)
	if err != nil {
		return err
	}
	defer backend.close()
	switch code := backend.answer.StatusCode; {
	case code == http.StatusSwitchingProtocols:
		return h.relay(w, r, backend)
	case code >= http.StatusBadRequest:
		copyAnswer(w, backend.answer)
		return nil
	default:
		return fmt.Errorf("invalid upgrade response: status code %d", code)
	}
}

// backend is a connection to somebody who has answered a request to upgrade.
type backend struct {
	net.Conn
	from   *bufio.Reader
	answer *http.Response
	stop   func() bool
}

func (b *backend) close() {
	b.stop()
	_ = b.answer.Body.Close()
	_ = b.Close()
}

// dialError is an error before anything was sent.
type dialError struct{ error }

func (e dialError) Error() string { return "error dialing backend: " + e.error.Error() }
func (e dialError) Unwrap() error { return e.error }

// open sends r to location and waits for the answer, whatever it is. The connection ends with r's context.
func (h *Handler) open(r *http.Request, location *url.URL, transport *http.Transport) (*backend, error) {
	conn, err := h.connect(r.Context(), location, transport)
	if err != nil {
		return nil, dialError{err}
	}
	b := &backend{Conn: conn, from: bufio.NewReader(conn)}
	b.stop = context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(answerTimeout)) // a connection without deadlines only waits longer
	if err = upgradeRequest(r, location).Write(conn); err != nil {
		err = fmt.Errorf("error sending request: %w", err)
	} else {
		b.answer, err = http.ReadResponse(b.from, r)
	}
	if err != nil {
		b.stop()
		_ = conn.Close()
		return nil, err
	}
	return b, nil
}

// relay joins the client to a backend that upgraded.
func (h *Handler) relay(w http.ResponseWriter, r *http.Request, b *backend) error {
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("error hijacking connection: %w", err)
	}
	defer client.Close()
	_, _ = client.SetDeadline(time.Time{}), b.SetDeadline(time.Time{})
	if err := writeSwitch(client, b.answer); err != nil {
		return nil // the client went away
	}
	h.join(r.Context(), client, buffered.Reader, b.Conn, b.from)
	return nil
}

// connect opens a connection that speaks HTTP/1.1, with TLS for https.
func (h *Handler) connect(ctx context.Context, location *url.URL, transport *http.Transport) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := h.cfg.Dial(ctx, "tcp", hostPort(location))
	if err != nil || location.Scheme != "https" {
		return conn, err
	}
	config := transport.TLSClientConfig.Clone()
	if config.ServerName == "" {
		config.ServerName = location.Hostname()
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

func hostPort(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Host
	case u.Scheme == "https":
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return net.JoinHostPort(u.Hostname(), "80")
}

// upgradeRequest is r for the backend. It has no body: what follows belongs to the new protocol.
func upgradeRequest(r *http.Request, location *url.URL) *http.Request {
	out := &http.Request{
		Method: r.Method, URL: location, Host: r.Host, Header: r.Header.Clone(), Body: http.NoBody,
		RemoteAddr: r.RemoteAddr, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	cleanHeader(out.Header)
	utilnet.AppendForwardedForHeader(out)
	return out
}

// cleanHeader removes what is between the client and this server only.
func cleanHeader(header http.Header) {
	for name := range header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") {
			delete(header, name)
		}
	}
}

// copyAnswer hands on an answer that did not upgrade, without this server's own headers.
func copyAnswer(w http.ResponseWriter, answer *http.Response) {
	w.Header().Del("Audit-Id")
	w.Header().Del("Cache-Control")
	for name, values := range answer.Header {
		switch name {
		case "Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade":
		default:
			w.Header()[name] = values
		}
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, answer.Body) // what is lost is the rest of an explanation
}

// writeSwitch tells the client that the protocol changes, in the backend's words alone.
func writeSwitch(client net.Conn, answer *http.Response) error {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", answer.Status)
	_ = answer.Header.Write(&b) // a builder has no errors
	b.WriteString("\r\n")
	_, err := io.WriteString(client, b.String())
	return err
}

// join copies both ways until one side ends, ctx does, or nothing is sent for long. The protocols inside end their streams
// by themselves, so the end of one direction is the end of the connection.
func (h *Handler) join(ctx context.Context, a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) {
	var active atomic.Bool
	done := make(chan struct{}, 2)
	pipe := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, &noted{from, &active}) // a broken stream ends; there is nobody to tell
		done <- struct{}{}
	}
	go pipe(b, fromA)
	go pipe(a, fromB)
	idle := time.NewTicker(h.cfg.IdleTimeout)
	defer idle.Stop()
	ended := 0
	for open := true; open; {
		select {
		case <-done:
			ended++
			open = false
		case <-ctx.Done():
			open = false
		case <-idle.C:
			open = active.Swap(false)
		}
	}
	_, _ = a.Close(), b.Close()
	for ; ended < 2; ended++ {
		<-done
	}
}

// noted notes that something was read.
type noted struct {
	io.Reader
	active *atomic.Bool
}

// Read implements io.Reader.
func (n *noted) Read(b []byte) (int, error) {
	count, err := n.Reader.Read(b)
	if count > 0 {
		n.active.Store(true)
	}
	return count, err
}
