// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package aggregate

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestDescribed asks a server for the aggregated form of its discovery, in whose place the plain one stands if there is none.
func TestDescribed(t *testing.T) {
	const plain = `{"kind":"APIResourceList","resources":[{"name":"plain","kind":"Plain","verbs":["get"]}]}`
	var form, body string
	code := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apis/wardle.example.com/v1":
			fmt.Fprint(w, plain)
		case "/apis":
			if !strings.Contains(r.Header.Get("Accept"), "v=v2;as=APIGroupDiscoveryList") {
				t.Errorf("accepts %q", r.Header.Get("Accept"))
			}
			w.Header().Set("Content-Type", form)
			w.Header().Set("ETag", fmt.Sprintf("%q", body))
			if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	w, changes := behind(t, server), 0
	h := New(Config{Server: w, Changed: func() { changes++ }, Log: slog.New(slog.DiscardHandler)})
	const v2, beta = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
	document := func(group, version, resource string) string {
		return fmt.Sprintf(`{"items":[{"metadata":{"name":"other"},"versions":[{"version":"v1"}]},`+
			`{"metadata":{"name":%q},"versions":[{"version":"v0"},{"version":%q,"resources":[{"resource":%q}]}]}]}`, group, version, resource)
	}
	for _, step := range []struct {
		name, form, body string
		code             int
		want             string
		changes          int
	}{
		{"the aggregated form", v2, document("wardle.example.com", "v1", "a"), 200, "a", 2},
		{"the same", v2, document("wardle.example.com", "v1", "a"), 200, "a", 2},
		{"another resource", v2, document("wardle.example.com", "v1", "b"), 200, "b", 3},
		{"no JSON", v2, "x", 200, "b", 3},
		{"its first version", beta, document("wardle.example.com", "v1", "c"), 200, "c", 4},
		{"without the version", v2, document("wardle.example.com", "v3", "a"), 200, "nothing", 5},
		{"without the group", v2, document("example.com", "v1", "a"), 200, "nothing", 5},
		{"a form that nobody asked for", "application/json", document("wardle.example.com", "v1", "d"), 200, "", 6},
		{"again", v2, document("wardle.example.com", "v1", "e"), 200, "e", 7},
		{"none", v2, "none", 406, "", 8},
		{"an error", v2, "", 500, "", 8},
	} {
		form, body, code = step.form, step.body, step.code
		h.reconcile(t.Context(), view{w}, w.service.Name)
		got := ""
		if d := h.Remotes()[0].Described; d != nil {
			if got = "nothing"; len(d.Resources) > 0 {
				got = d.Resources[0].Resource
			}
		}
		if got != step.want || changes != step.changes {
			t.Errorf("%s: %q, changed %d times, want %q, %d", step.name, got, changes, step.want, step.changes)
		}
	}
}
