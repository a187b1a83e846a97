// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package stream_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// TestRefusedCommands asks for commands that the node refuses. With protocol v5 of WebSocket that is said in the stream, else by the
// answer.
func TestRefusedCommands(t *testing.T) {
	w := newWorld(t, nil)
	config, err := rest.TLSConfigFor(w.config)
	if err != nil {
		t.Fatal(err)
	}
	const pods = "/api/v1/namespaces/default/pods/"
	for _, c := range []struct {
		path, protocols string
		code            int
		want            string // of the error channel, or of the answer
	}{
		{"web/exec?container=lost&command=x&stdout=true", "v5.channel.k8s.io", 101,
			`{"metadata":{},"status":"Failure","message":"Internal error occurred: unable to upgrade connection: container not found (\"lost\")",` +
				`"reason":"InternalError","details":{"causes":[{"message":"unable to upgrade connection: container not found (\"lost\")"}]},"code":500}`},
		{"web/attach?container=denied&stdout=true", "v4.channel.k8s.io, v5.channel.k8s.io", 101,
			`"message":"Internal error occurred: unable to upgrade connection: not you","reason":"InternalError"`},
		{"web/exec?container=silent&command=x&stderr=true", "v5.channel.k8s.io", 101, "unable to upgrade connection: empty server response"},
		{"one/exec?command=x&stdout=true", "v5.channel.k8s.io", 101, "you must specify at least 1 of stdin, stdout, stderr"},
		{"away/exec?command=x&stdout=true", "v5.channel.k8s.io", 101,
			`Internal error occurred: error sending request: Post \"https://10.99.0.9:10250/exec/default/away/a?command=x\u0026output=1\": dial 10.99.0.9:10250: no route"`},
		{"web/exec?container=lost&command=x&stdout=true", "v4.channel.k8s.io", 404, `container not found ("lost")`},
		{"away/exec?command=x&stdout=true", "v4.channel.k8s.io", 500, "error dialing backend: dial 10.99.0.9:10250: no route"},
		{"web/exec?command=x&stdout=true", "v5.channel.k8s.io", 400, "a container name must be specified for pod web"},
		{"none/exec?command=x&stdout=true", "v5.channel.k8s.io", 404, "not found"},
		{"away/portforward", "SPDY/3.1+portforward.k8s.io", 500, "error dialing backend: dial 10.99.0.9:10250: no route"},
	} {
		d := gorilla.Dialer{TLSClientConfig: config}
		conn, answer, err := d.DialContext(t.Context(), "wss"+strings.TrimPrefix(w.config.Host, "https")+pods+c.path,
			http.Header{"Sec-WebSocket-Protocol": {c.protocols}})
		if answer == nil || answer.StatusCode != c.code {
			t.Errorf("%s as %s: %v, %v", c.path, c.protocols, answer, err)
			continue
		}
		if err != nil {
			body, _ := io.ReadAll(answer.Body) // gorilla has it all
			if answer.Header.Get("Audit-Id") != "" && answer.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: has this server's headers: %v", c.path, answer.Header)
			}
			if !strings.Contains(string(body), strings.ReplaceAll(c.want, `"`, `\"`)) && !strings.Contains(string(body), c.want) {
				t.Errorf("%s as %s: %s\nwant %s", c.path, c.protocols, body, c.want)
			}
			continue
		}
		if got := conn.Subprotocol(); got != "v5.channel.k8s.io" || answer.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: protocol %q, header %v", c.path, got, answer.Header)
		}
		if err := conn.WriteMessage(gorilla.BinaryMessage, append([]byte{0}, strings.Repeat("x", 1<<20)...)); err != nil { // nobody reads it
			t.Logf("%s: write: %v", c.path, err)
		}
		first := byte(1)
		if strings.Contains(c.path, "stderr") {
			first = 2
		}
		if _, message, err := conn.ReadMessage(); err != nil || len(message) != 1 || message[0] != first {
			t.Errorf("%s: starts with %q, %v", c.path, message, err)
		}
		kind, message, err := conn.ReadMessage()
		if err != nil || kind != gorilla.BinaryMessage || len(message) == 0 || message[0] != 3 || !strings.Contains(string(message), c.want) {
			t.Errorf("%s as %s: %d %q, %v\nwant %s", c.path, c.protocols, kind, message, err, c.want)
		}
		if _, _, err := conn.ReadMessage(); !gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
			t.Errorf("%s: then %v", c.path, err)
		}
		conn.Close()
	}
	err = w.executor("WebSocket", pods+"web/exec?container=lost&command=x&stdout=true").StreamWithContext(t.Context(),
		remotecommand.StreamOptions{Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), `container not found ("lost")`) {
		t.Errorf("client-go got %v", err)
	}
	w.streams.Wait()
}
