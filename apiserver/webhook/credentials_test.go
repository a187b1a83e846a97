// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config")
	text := `{apiVersion: v1, kind: Config, users: [{name: a.n.svc, user: {token: exact}}, {name: '*.n.svc', user: {tokenFile: token}},
		{name: 'a.n.svc:8443', user: {username: u, password: p}}, {name: '*.example.org', user: {token: star}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadCredentials(file)
	if err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]string{
		"a.n.svc": "Bearer exact", "a.n.svc:443": "Bearer exact", "b.n.svc": "Bearer from-file", "a.n.svc:8443": "Basic dTpw",
		"x.y.example.org": "Bearer star", "elsewhere": "",
	} {
		r := &http.Request{Header: http.Header{}}
		if err := c.of(server).show(r); err != nil || r.Header.Get("Authorization") != want {
			t.Errorf("%s: %q, %v, want %q", server, r.Header.Get("Authorization"), err, want)
		}
	}
}
