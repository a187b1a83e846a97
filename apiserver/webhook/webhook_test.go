// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
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
