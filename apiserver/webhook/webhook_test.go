// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestPath(t *testing.T) {
	var asked string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for _, row := range []struct{ path, query, want string }{
		{"", "", "/"},
		{"/mutate", "", "/mutate"},
		{"//mutate", "", "/mutate"}, // as envtest writes it
		{"/a//b/", "timeout=5s", "/a/b?timeout=5s"},
	} {
		target := &Target{URL: server.URL + row.path, CABundle: authority}
		if _, err := New(nil).Post(t.Context(), target, row.query, []byte("{}")); err != nil {
			t.Errorf("%q: %v", row.path, err)
		}
		if asked != row.want {
			t.Errorf("%q: asked for %q, want %q", row.path, asked, row.want)
		}
	}
}

// A server that is busy or broken is asked again when it says so, within the time of the call.
func TestAskedAgain(t *testing.T) {
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch {
		case r.URL.Path == "/long":
			w.Header().Set("Retry-After", "1000")
		case asked < 3:
			w.Header().Set("Retry-After", "0")
		case r.URL.Path == "/unsaid":
		default:
			_, _ = w.Write([]byte("{}"))
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for _, test := range []struct {
		path  string
		asked int
		want  string
	}{
		{"/short", 3, ""},
		{"/unsaid", 3, "the server is currently unable to handle the request"},
		{"/long", 1, `Post "` + server.URL + `/long": context deadline exceeded`},
	} {
		asked = 0
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := New(nil).Post(ctx, &Target{URL: server.URL + test.path, CABundle: authority}, "", []byte("{}"))
		cancel()
		if asked != test.asked || test.want == "" && err != nil || test.want != "" && (err == nil || err.Error() != test.want) {
			t.Errorf("%s: asked %d times, %v", test.path, asked, err)
		}
	}
}
