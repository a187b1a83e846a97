// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"knarr.dev/apiserver/http2"
)

// TestSender: a watcher for which there is nothing for long stays, one that does not read is cut off.
func TestSender(t *testing.T) {
	const within = 20 * time.Millisecond
	for name, protocol := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			again, ended := make(chan struct{}), make(chan struct{})
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				out := newSender(w, within)
				if !out.send([]byte("first\n")) {
					t.Error("not sent")
				}
				<-again
				if !out.send([]byte("second\n")) {
					t.Error("cut off although it read")
				}
				for much := make([]byte, 1<<20); out.send(much); {
				}
			}))
			server.EnableHTTP2 = protocol
			http2.Attach(server.Config, http2.Options{})
			server.StartTLS()
			defer server.Close()
			r, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Body.Close() }()
			lines := bufio.NewReaderSize(r.Body, 16)
			for _, want := range []string{"first\n", "second\n"} {
				if got, err := lines.ReadString('\n'); got != want || err != nil {
					t.Fatalf("%q %v, not %q", got, err, want)
				}
				if want == "first\n" {
					time.Sleep(5 * within) // nothing to send meanwhile
					close(again)
				}
			}
			<-ended
			if _, err := io.Copy(io.Discard, lines); err == nil {
				t.Error("the watcher did not hear that it was cut off")
			}
		})
	}
}
