// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	protocol "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// The binary protocols of WebSocket have the names of the SPDY ones; these send text.
const (
	base64V4 = "v4.base64.channel.k8s.io"
	plain    = "" // of clients that name no protocol
)

// statusText writes how a command ended, in the way of a protocol.
type statusText func(io.Writer, error)

// translate serves a command over WebSocket to clients, with SPDY to the runtime.
//
// The runtime's own WebSocket is not used: without input it takes its input as ended at once, and the end of the input of a
// terminal makes it drop the output.
func (s *Server) translate(w http.ResponseWriter, r *http.Request, address string, o streamOptions) {
	conn, name, streams, err := openChannels(w, r, o)
	if err != nil {
		s.config.Log.Debug("cannot open WebSocket", "error", err)
		return
	}
	s.streams.Add(1)
	defer s.streams.Done()
	tell := statusText(writeStatus)
	switch name {
	case protocol.StreamProtocolV4Name, protocol.StreamProtocolV5Name, base64V4:
	default:
		tell = writeProblem
	}
	ctx, cancel := context.WithCancel(r.Context())
	resize := &sizes{decoder: json.NewDecoder(streams[protocol.StreamResize])}
	var watch sync.WaitGroup
	defer watch.Wait()
	defer conn.Close()
	defer cancel()
	options := remotecommand.StreamOptions{Tty: o.tty}
	if o.stdin {
		options.Stdin = streams[protocol.StreamStdIn]
	} else {
		resize.ended = cancel // with input, the end of the input tells the command
	}
	if o.stdout {
		options.Stdout = streams[protocol.StreamStdOut]
	}
	if o.stderr {
		options.Stderr = streams[protocol.StreamStdErr]
	}
	if o.tty {
		options.TerminalSizeQueue = resize
	} else {
		watch.Go(func() {
			_, _ = io.Copy(io.Discard, streams[protocol.StreamResize]) // ends with the connection
			resize.end()
		})
	}
	tell(streams[protocol.StreamErr], s.stream(ctx, address, options))
}

// openChannels accepts a WebSocket and tells the client, with an empty message, that it is open.
func openChannels(w http.ResponseWriter, r *http.Request, o streamOptions) (*wsstream.Conn, string, []io.ReadWriteCloser, error) {
	channel := func(on bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if on {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		protocol.StreamStdIn: channel(o.stdin, wsstream.ReadChannel), protocol.StreamStdOut: channel(o.stdout, wsstream.WriteChannel),
		protocol.StreamStdErr: channel(o.stderr, wsstream.WriteChannel), protocol.StreamErr: wsstream.WriteChannel,
		protocol.StreamResize: wsstream.ReadChannel,
	}
	binary, text := wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}, wsstream.ChannelProtocolConfig{Channels: channels}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		protocol.StreamProtocolV5Name: binary, protocol.StreamProtocolV4Name: binary, base64V4: text,
		protocol.StreamProtocolV1Name: binary, wsstream.Base64ChannelWebSocketProtocol: text, plain: binary,
	})
	name, streams, err := conn.Open(w, r)
	if err != nil {
		return nil, "", nil, err
	}
	first := protocol.StreamErr
	switch {
	case o.stdout:
		first = protocol.StreamStdOut
	case o.stderr:
		first = protocol.StreamStdErr
	}
	if _, err := streams[first].Write(nil); err != nil {
		_ = conn.Close()
		return nil, "", nil, err
	}
	return conn, name, streams, nil
}

// stream runs a command that the runtime has prepared at address.
func (s *Server) stream(ctx context.Context, address string, options remotecommand.StreamOptions) error {
	target, err := url.Parse(address)
	if err != nil {
		return err
	}
	d := &dialer{dial: s.config.Dial}
	executor, err := remotecommand.NewSPDYExecutorForTransports(d, clientspdy.NewUpgraderForStreaming(d), http.MethodPost, target)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, options)
}

// sizes reads the sizes of the client's terminal.
type sizes struct {
	decoder *json.Decoder
	ended   func() // what follows the end of the connection; may be nil
}

// Next implements remotecommand.TerminalSizeQueue.
func (s *sizes) Next() *remotecommand.TerminalSize {
	var size remotecommand.TerminalSize
	if err := s.decoder.Decode(&size); err != nil {
		if errors.Is(err, io.EOF) {
			s.end()
		}
		return nil
	}
	return &size
}

func (s *sizes) end() {
	if s.ended != nil {
		s.ended()
	}
}

// writeProblem tells of an error as text, as protocols before the fourth do.
func writeProblem(w io.Writer, err error) {
	if err != nil {
		_, _ = io.WriteString(w, err.Error()) // a client that went away needs no status
	}
}

// writeStatus tells how a command ended.
func writeStatus(w io.Writer, err error) {
	status := metav1.Status{Status: metav1.StatusSuccess}
	var code exec.CodeExitError
	switch {
	case errors.As(err, &code):
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: protocol.NonZeroExitCodeReason,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: protocol.ExitCodeCauseType, Message: strconv.Itoa(code.Code)}}},
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", err),
		}
	case err != nil:
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError, Message: err.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: err.Error()}}},
		}
	}
	raw, err := json.Marshal(status)
	if err == nil {
		_, _ = w.Write(raw) // a client that went away needs no status
	}
}
