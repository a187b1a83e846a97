// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	portforwardconst "k8s.io/apimachinery/pkg/util/portforward"
	protocol "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// kubelet answers as a node agent does, without containers: commands are "cat" (and exit 7) or "wait" (says "x" and
// waits until the client goes away), forwarded ports echo, logs come from channel lines.
type kubelet struct {
	t     *testing.T
	lines chan string
	// drop cuts all connections off.
	drop func()
}

// conns is a listener that knows its connections.
type conns struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func (c *conns) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.open = append(c.open, conn)
	}
	return conn, err
}

func (c *conns) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		_ = conn.Close()
	}
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "containerLogs" && len(parts) == 4:
		k.logs(w, r, parts[3])
	case (parts[0] == "exec" || parts[0] == "attach") && len(parts) == 4:
		k.command(w, r, parts[3])
	case parts[0] == "portForward" && len(parts) == 3:
		k.forward(w, r)
	case r.URL.Path == "/moved":
		http.Redirect(w, r, "/elsewhere?a=b", http.StatusMovedPermanently)
	default:
		fmt.Fprintf(w, "%s %s forwarded=%s", r.Method, r.URL, r.Header.Get("X-Forwarded-Uri"))
	}
}

func (k *kubelet) logs(w http.ResponseWriter, r *http.Request, container string) {
	switch {
	case container == "waiting":
		http.Error(w, `container "waiting" in pod "web" is waiting to start: ContainerCreating`, http.StatusBadRequest)
	case container == "lost":
		http.Error(w, "container is lost", http.StatusInternalServerError)
	case container == "odd":
		http.Error(w, "no such thing", http.StatusNotFound)
	case r.URL.Query().Get("follow") == "true":
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case line, ok := <-k.lines:
				if !ok {
					return
				}
				fmt.Fprintln(w, line)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	default:
		fmt.Fprintf(w, "%s %s\n", container, r.URL.Query().Encode())
	}
}

// run is the command itself.
func (k *kubelet) run(command string, in io.Reader, out, problems, status io.Writer) {
	if command == "wait" {
		_, _ = io.WriteString(out, "x")
		_, _ = io.Copy(io.Discard, in)
		return
	}
	_, _ = io.Copy(out, in)
	_, _ = io.WriteString(problems, "problem\n")
	result := metav1.Status{
		Status: metav1.StatusFailure, Reason: protocol.NonZeroExitCodeReason,
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: protocol.ExitCodeCauseType, Message: "7"}}},
	}
	raw, err := json.Marshal(result)
	if err != nil {
		k.t.Error(err)
	}
	_, _ = status.Write(raw)
}

func (k *kubelet) command(w http.ResponseWriter, r *http.Request, container string) {
	q := r.URL.Query()
	if container == "lost" {
		http.Error(w, `container not found ("lost")`, http.StatusNotFound)
		return
	}
	if container == "silent" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if container == "denied" {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"not you","reason":"Forbidden","code":403}`)
		return
	}
	if q.Get("input") != "1" || q.Get("output") != "1" || q.Get("error") != "1" {
		http.Error(w, "you must specify at least 1 of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	command := strings.Join(q["command"], " ")
	if wsstream.IsWebSocketRequest(r) {
		channels := []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel}
		conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
			protocol.StreamProtocolV5Name: {Binary: true, Channels: channels},
			protocol.StreamProtocolV4Name: {Binary: true, Channels: channels},
		})
		_, s, err := conn.Open(w, r)
		if err != nil {
			k.t.Error(err)
			return
		}
		k.run(command, s[0], s[1], s[2], s[3])
		_ = conn.Close()
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{protocol.StreamProtocolV4Name}); err != nil {
		k.t.Error(err)
		return
	}
	type arrived struct {
		httpstream.Stream
		replied <-chan struct{}
	}
	streams := make(chan arrived, 4)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		streams <- arrived{s, replied}
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	byType := map[string]httpstream.Stream{}
	for len(byType) < 4 {
		s := <-streams
		<-s.replied
		byType[s.Headers().Get(corev1.StreamType)] = s
	}
	k.run(command, byType[corev1.StreamTypeStdin], byType[corev1.StreamTypeStdout], byType[corev1.StreamTypeStderr], byType[corev1.StreamTypeError])
	for _, name := range []string{corev1.StreamTypeStdout, corev1.StreamTypeStderr, corev1.StreamTypeError} {
		_ = byType[name].Close()
	}
	if command != "wait" {
		<-conn.CloseChan()
	}
}

// forward echoes what comes on forwarded ports.
func (k *kubelet) forward(w http.ResponseWriter, r *http.Request) {
	var echoes sync.WaitGroup
	defer echoes.Wait()
	each := func(s httpstream.Stream, replied <-chan struct{}) error {
		if _, err := strconv.ParseUint(s.Headers().Get(corev1.PortHeader), 10, 16); err != nil {
			return err
		}
		echoes.Go(func() {
			<-replied
			if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				_, _ = io.Copy(s, s)
			}
			_ = s.Close()
		})
		return nil
	}
	var conn httpstream.Connection
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		upgrader := gorilla.Upgrader{Subprotocols: []string{portforwardconst.WebsocketsSPDYTunnelingPortForwardV1}}
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			k.t.Error(err)
			return
		}
		var tunnel net.Conn = portforward.NewTunnelingConnection("server", socket)
		if conn, err = spdy.NewServerConnection(tunnel, each); err != nil {
			k.t.Error(err)
			return
		}
	} else {
		if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
			k.t.Error(err)
			return
		}
		if conn = spdy.NewResponseUpgrader().UpgradeResponse(w, r, each); conn == nil {
			return
		}
	}
	<-conn.CloseChan()
	_ = conn.Close()
}
