// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package callout

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func client(t *testing.T, tries int, serve http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(serve)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}], users: [{name: u, user: {token: secret}}], contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}", server.URL+"/path?timeout=1s")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{File: file, Tries: tries, Backoff: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPost(t *testing.T) {
	var calls atomic.Int32
	c := client(t, 3, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.URL.Path != "/path" || r.Method != http.MethodPost {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		if calls.Add(1) < 3 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, `{"a": 1}`)
	})
	var out struct{ A int }
	if err := c.Post(t.Context(), map[string]int{}, &out); err != nil || out.A != 1 || calls.Load() != 3 {
		t.Errorf("%+v after %d calls, %v", out, calls.Load(), err)
	}
}

func TestPostGivesUp(t *testing.T) {
	for code, want := range map[int]int32{http.StatusForbidden: 1, http.StatusInternalServerError: 3, http.StatusTooManyRequests: 3} {
		var calls atomic.Int32
		c := client(t, 3, func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			http.Error(w, "no", code)
		})
		var status *StatusError
		if err := c.Post(t.Context(), nil, nil); !errors.As(err, &status) || status.Code != code || calls.Load() != want {
			t.Errorf("%d: %v after %d calls", code, err, calls.Load())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client(t, 3, func(http.ResponseWriter, *http.Request) {}).Post(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := New(Config{File: "/nonexistent"}); err == nil {
		t.Error("a file that is not there")
	}
}
