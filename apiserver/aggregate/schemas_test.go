// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestSchemasAreReadWhenTheyChange(t *testing.T) {
	body, sent := `{"swagger":"2.0"}`, 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis/wardle.example.com/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList"}`)
		case "/openapi/v2":
			w.Header().Set("ETag", fmt.Sprintf("%q", body))
			if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			sent++
			fmt.Fprint(w, body)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	w, changes := behind(t, server), 0
	h := New(Config{Server: w, Changed: func() { changes++ }, Log: slog.New(slog.DiscardHandler)})
	for _, step := range []struct {
		body          string
		sent, changes int
	}{
		{body, 1, 2}, {body, 1, 2}, {`{"swagger":"2.0","info":{}}`, 2, 3}, {"not JSON", 3, 3},
	} {
		body = step.body
		h.reconcile(t.Context(), view{w}, w.service.Name)
		if sent != step.sent || changes != step.changes || len(h.Remotes()[0].OpenAPI2) == 0 {
			t.Errorf("%s: sent %d times, changed %d times, want %+v", body, sent, changes, step)
		}
	}
}
