// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestComponents(t *testing.T) {
	c := &Cluster{}
	for _, part := range c.components() {
		if part.Check(t.Context()) == nil {
			t.Errorf("%s is well before it has begun", part.Name)
		}
	}
	c.loopsBegun.Store(true)
	c.schedulerBegun.Store(true)
	for _, part := range c.components() {
		if err := part.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", part.Name, err)
		}
	}
	code := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	defer server.Close()
	if err := ask(t.Context(), server.URL); err != nil {
		t.Error(err)
	}
	if code = http.StatusInternalServerError; ask(t.Context(), server.URL) == nil {
		t.Error("a component that is not well passes")
	}
	ended, cancel := context.WithCancel(t.Context())
	if cancel(); ask(ended, server.URL) == nil {
		t.Error("no answer passes")
	}
}
