// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCloseFinishesRequests ends a cluster while a request is in flight: it is answered, stored, and in the audit log.
func TestCloseFinishesRequests(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	c := start(t, func(c *Config) {
		c.TokenFile = write(t, "secret,jane,1,system:masters\n")
		c.Audit.PolicyFile = write(t, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata, users: [jane]}]}")
		c.Audit.LogPath, c.Audit.LogMode = log, "batch"
	})
	ask := func(method, path string, body io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, body)
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		c.Server().Handler().ServeHTTP(w, r)
		return w
	}
	body, rest := io.Pipe()
	answered := make(chan *httptest.ResponseRecorder)
	go func() { answered <- ask("POST", "/api/v1/namespaces/default/configmaps", body) }()
	io.WriteString(rest, `{"metadata":{"name":"last"}`) // returns when the server reads it
	closed := make(chan error)
	go func() { closed <- c.Close() }()
	for code := 0; code != http.StatusInternalServerError; {
		code = ask("GET", "/readyz", nil).Code
	}
	select {
	case err := <-closed:
		t.Fatalf("closed before the request was finished: %v", err)
	default:
	}
	io.WriteString(rest, `}`)
	rest.Close()
	if w := <-answered; w.Code != http.StatusCreated {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(data), `"name":"last"`) || !strings.Contains(string(data), `"stage":"ResponseComplete"`) {
		t.Errorf("audit log %v:\n%s", err, data)
	}
}
