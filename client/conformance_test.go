// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authn"
	"knarr.dev/client"
	"knarr.dev/client/clienttest"
	"knarr.dev/store/pebble"
)

// admin takes every request for one of the superuser.
type admin struct{}

func (admin) Authenticate(*http.Request) (*call.Identity, error) {
	return &call.Identity{Name: "admin", Groups: []string{authn.GroupMasters}}, nil
}

// serve runs an API server on a store in memory until the test ends.
func serve(t *testing.T) *apiserver.Server {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{
		Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Authenticators: []authn.Authenticator{admin{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	<-s.Ready()
	return s
}

// overHTTP serves a handler with TLS and HTTP/2 until the test ends.
func overHTTP(t *testing.T, h http.Handler) client.HTTPConfig {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return client.HTTPConfig{Server: s.URL, Insecure: true}
}

func dial(t *testing.T, cfg client.HTTPConfig) *client.HTTP {
	t.Helper()
	h, err := client.NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func TestConformanceInProcess(t *testing.T) {
	clienttest.Run(t, func(t *testing.T) clienttest.Pair {
		s := serve(t)
		who := func(name string) call.Transport {
			return s.Transport(call.Identity{Name: name, Groups: []string{authn.GroupMasters}})
		}
		return clienttest.Pair{One: who("one"), Other: who("other")}
	})
}

func TestConformanceHTTP(t *testing.T) {
	clienttest.Run(t, func(t *testing.T) clienttest.Pair {
		cfg := overHTTP(t, serve(t).Handler())
		return clienttest.Pair{One: dial(t, cfg), Other: dial(t, cfg)}
	})
}
