// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"knarr.dev/api/call"
)

// TestWatchesEndWithTheServer: the client sees the end of the watch, not a broken connection; the other server sees it too.
func TestWatchesEndWithTheServer(t *testing.T) {
	left := make(chan struct{})
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprint(w, `{}`)
			return
		}
		fmt.Fprint(w, "event\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	}))
	defer other.Close()
	w, began, turns := behind(t, other), make(chan struct{}), 0
	h := New(Config{Server: w, Log: slog.New(slog.DiscardHandler), Ending: Ending{began, func() time.Duration { turns++; return time.Millisecond }}})
	h.reconcile(t.Context(), view{w}, w.service.Name)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r, version, &call.Identity{Name: "jane"}, r.URL.Query().Get("watch") != "")
	}))
	defer front.Close()
	answer, err := http.Get(front.URL + "/apis/wardle.example.com/v1/flunders?watch=1")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	first := make([]byte, len("event\n"))
	if _, err := io.ReadFull(answer.Body, first); err != nil {
		t.Fatal(err)
	}
	close(began)
	if rest, err := io.ReadAll(answer.Body); err != nil || len(rest) > 0 {
		t.Errorf("then came %q, %v", rest, err)
	}
	<-left
	answer, err = http.Get(front.URL + "/apis/wardle.example.com/v1/flunders")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || string(body) != "{}" || turns != 1 {
		t.Errorf("a request that is brief: %q, %v; %d turns", body, err, turns)
	}
}
