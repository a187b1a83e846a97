// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	gorilla "github.com/gorilla/websocket"
	portforwardconst "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/tools/portforward"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// streamOptions are the streams that a request asks for. The API server's names and kubectl's are both known.
type streamOptions struct{ stdin, stdout, stderr, tty bool }

func readStreamOptions(q url.Values) streamOptions {
	is := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			b, err := strconv.ParseBool(q.Get(name))
			return err == nil && b
		})
	}
	o := streamOptions{is("input", "stdin"), is("output", "stdout"), is("error", "stderr"), is("tty")}
	o.stderr = o.stderr && !o.tty
	return o
}

// command serves exec and attach.
func (s *Server) command(verb string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := s.running(r)
		if err != nil {
			fail(w, err)
			return
		}
		o := readStreamOptions(r.URL.Query())
		if !o.stdin && !o.stdout && !o.stderr {
			fail(w, &problem{http.StatusBadRequest, "you must specify at least 1 of stdin, stdout, stderr"})
			return
		}
		var address string
		if verb == "exec" {
			answer, err := s.config.CRI.Exec(r.Context(), &runtimeapi.ExecRequest{
				ContainerId: id, Cmd: r.URL.Query()["command"], Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
			})
			if err != nil {
				fail(w, err)
				return
			}
			address = answer.Url
		} else {
			answer, err := s.config.CRI.Attach(r.Context(), &runtimeapi.AttachRequest{
				ContainerId: id, Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
			})
			if err != nil {
				fail(w, err)
				return
			}
			address = answer.Url
		}
		if wsstream.IsWebSocketRequest(r) {
			s.translate(w, r, address, o)
			return
		}
		s.pass(w, r, address)
	}
}

// portForward serves port-forward.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	p, err := s.find(r)
	if err != nil {
		fail(w, err)
		return
	}
	answer, err := s.config.CRI.ListPodSandbox(r.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.UID)},
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		fail(w, err)
		return
	}
	if len(answer.Items) == 0 {
		fail(w, &problem{http.StatusNotFound, fmt.Sprintf("pod %q is not running", p.Name)})
		return
	}
	request := &runtimeapi.PortForwardRequest{PodSandboxId: answer.Items[0].Id}
	for _, text := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		for _, one := range strings.Split(text, ",") {
			port, err := strconv.ParseUint(one, 10, 16)
			if err != nil {
				fail(w, &problem{http.StatusBadRequest, fmt.Sprintf("invalid port %q", one)})
				return
			}
			request.Port = append(request.Port, int32(port))
		}
	}
	stream, err := s.config.CRI.PortForward(r.Context(), request)
	if err != nil {
		fail(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		s.tunnel(w, r, stream.Url)
		return
	}
	s.pass(w, r, stream.Url)
}

// pass upgrades a connection to the runtime's streaming server in the way the client asks for, and passes bytes on.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, address string) {
	target, err := url.Parse(address)
	if err != nil {
		fail(w, err)
		return
	}
	upstream, err := s.config.Dial(r.Context(), "tcp", target.Host)
	if err != nil {
		fail(w, err)
		return
	}
	defer upstream.Close()
	request := &http.Request{Method: r.Method, URL: target, Host: target.Host, Header: r.Header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	request.Header.Del("Authorization")
	// The runtime checks that a browser's request comes from its own page.
	request.Header.Del("Origin")
	if err := request.Write(upstream); err != nil {
		fail(w, err)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, err)
		return
	}
	defer client.Close()
	s.join(r.Context(), client, buffered.Reader, upstream, upstream)
}

// join copies both ways until one side ends or the request's context does. The protocols inside end their streams by
// themselves, so the end of a connection in one direction is the end of it.
func (s *Server) join(ctx context.Context, a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) {
	s.streams.Add(1)
	defer s.streams.Done()
	done := make(chan struct{}, 2)
	pipe := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from) // a broken stream ends; there is nobody to tell
		done <- struct{}{}
	}
	go pipe(b, fromA)
	go pipe(a, fromB)
	ended := 0
	select {
	case <-done:
		ended++
	case <-ctx.Done():
	}
	_ = a.Close()
	_ = b.Close()
	for ; ended < 2; ended++ {
		<-done
	}
}

// dialer upgrades to SPDY in the node's network.
type dialer struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	conn net.Conn
	read *bufio.Reader
}

// RoundTrip implements http.RoundTripper.
func (d *dialer) RoundTrip(r *http.Request) (*http.Response, error) {
	conn, err := d.dial(r.Context(), "tcp", r.URL.Host)
	if err != nil {
		return nil, err
	}
	d.conn, d.read = conn, bufio.NewReader(conn)
	request := r.Clone(r.Context())
	request.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	request.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	if err := request.Write(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	answer, err := http.ReadResponse(d.read, request)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return answer, nil
}

// NewConnection implements httpstream.UpgradeRoundTripper.
func (d *dialer) NewConnection(answer *http.Response) (httpstream.Connection, error) {
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4096)) // the text explains; its absence does not matter
		_ = d.conn.Close()
		return nil, fmt.Errorf("the container runtime refused the stream: %s: %s", answer.Status, body)
	}
	return spdy.NewClientConnection(d.buffered())
}

func (d *dialer) buffered() net.Conn { return &bufferedConn{d.conn, d.read} }

// bufferedConn reads through a buffer that was filled during the handshake.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

// Read implements net.Conn.
func (c *bufferedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }

// tunnel passes the SPDY connection inside of a WebSocket on to the runtime.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request, address string) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, address, nil)
	if err != nil {
		fail(w, err)
		return
	}
	request.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardProtocolV1Name)
	d := &dialer{dial: s.config.Dial}
	answer, err := d.RoundTrip(request)
	if err != nil {
		fail(w, err)
		return
	}
	defer d.conn.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		fail(w, fmt.Errorf("the container runtime refused the stream: %s", answer.Status))
		return
	}
	upgrader := gorilla.Upgrader{
		CheckOrigin:  func(*http.Request) bool { return true }, // clients are known by their certificate
		Subprotocols: []string{portforwardconst.WebsocketsSPDYTunnelingPortForwardV1},
	}
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		s.config.Log.Debug("cannot open WebSocket", "error", err)
		return
	}
	client := portforward.NewTunnelingConnection("server", socket)
	defer client.Close()
	s.join(r.Context(), client, client, d.conn, d.read)
}
