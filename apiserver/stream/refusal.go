// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	protocol "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// toldInStream tells whether the client of a command learns of all errors of the node in the stream: with protocol v5 of WebSocket
// kube-apiserver takes the connection before it asks the node.
func toldInStream(r *http.Request) bool {
	return wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) && r.Header.Get(keyHeader) != "" && r.Header.Get("Sec-Websocket-Version") == "13"
}

// upgradeCommand passes a command on to the node. If that refuses it, the client gets a connection on which it is told so.
func (h *Handler) upgradeCommand(w http.ResponseWriter, r *http.Request, location *url.URL) error {
	node, err := h.open(r, location, h.kubelet)
	if err == nil {
		defer node.close()
		if node.answer.StatusCode == http.StatusSwitchingProtocols {
			return h.relay(w, r, node)
		}
		err = refusal(node.answer)
	} else {
		err = errors.New("error sending request: " + (&url.Error{Op: "Post", URL: location.String(), Err: cause(err)}).Error())
	}
	h.cfg.Log.Debug("refused command", "path", r.URL.Path, "err", err)
	return h.tell(w, r, err)
}

// cause is what went wrong without what was being done.
func cause(err error) error {
	var dialing dialError
	if errors.As(err, &dialing) {
		return dialing.error
	}
	return err
}

// refusal is the answer of a node that does not upgrade, as an error.
func refusal(answer *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxError))
	if err != nil {
		return errors.New("unable to upgrade connection: unable to read error from server response")
	}
	text := strings.TrimSpace(string(raw))
	var s metav1.Status
	switch {
	case len(raw) == 0:
		text = "empty server response"
	case json.Unmarshal(raw, &s) == nil && s.Kind == "Status":
		text = s.Message
	}
	return errors.New("unable to upgrade connection: " + text)
}

// What WebSocket (RFC 6455) calls things.
const (
	keyHeader   = "Sec-Websocket-Key"
	keySuffix   = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	binaryFrame = 0x80 | 0x2
	closeFrame  = 0x80 | 0x8
	normalEnd   = 1000
)

// partingTime is how long a client has to end a connection on which everything was said.
const partingTime = 10 * time.Second

// tell takes the client's connection to say what went wrong: one message on the error channel.
func (h *Handler) tell(w http.ResponseWriter, r *http.Request, err error) error {
	message, err := json.Marshal(apierrors.NewInternalError(err).Status()) // without kind, as the statuses of commands that end
	if err != nil {
		return err
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(partingTime))
	stop := context.AfterFunc(r.Context(), func() { _ = client.Close() })
	defer stop()
	accept := sha1.Sum([]byte(r.Header.Get(keyHeader) + keySuffix))
	header := http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-WebSocket-Accept": {base64.StdEncoding.EncodeToString(accept[:])},
		"Sec-WebSocket-Protocol": {protocol.StreamProtocolV5Name},
	}
	if err := writeSwitch(client, &http.Response{Status: "101 Switching Protocols", Header: header}); err != nil {
		return nil // the client went away
	}
	frames := frame(nil, binaryFrame, []byte{firstChannel(r.URL.Query())}) // by which clients see that there is a connection
	frames = frame(frames, binaryFrame, append([]byte{protocol.StreamErr}, message...))
	frames = frame(frames, closeFrame, binary.BigEndian.AppendUint16(nil, normalEnd))
	if _, err := client.Write(frames); err == nil {
		part(client, buffered.Reader)
	}
	return nil
}

// firstChannel is the first channel that a command writes to.
func firstChannel(q url.Values) byte {
	switch {
	case flag(q, "stdout"):
		return protocol.StreamStdOut
	case flag(q, "stderr") && !flag(q, "tty"):
		return protocol.StreamStdErr
	}
	return protocol.StreamErr
}

// frame appends a message in one frame.
func frame(to []byte, kind byte, message []byte) []byte {
	to = append(to, kind)
	switch n := len(message); {
	case n < 126:
		to = append(to, byte(n))
	case n < 1<<16:
		to = binary.BigEndian.AppendUint16(append(to, 126), uint16(n))
	default:
		to = binary.BigEndian.AppendUint64(append(to, 127), uint64(n))
	}
	return append(to, message...)
}

// part waits until the client has read all and ends the connection: closed with its input unread, the connection would be reset
// and the message lost.
func part(client net.Conn, from *bufio.Reader) {
	if half, ok := client.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.Copy(io.Discard, from) // until the end or the deadline
}
