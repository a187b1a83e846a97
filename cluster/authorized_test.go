// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"knarr.dev/api"
	"knarr.dev/api/resource"
)

// start starts an API server alone, without sockets.
func start(t *testing.T, change func(*Config)) *Cluster {
	t.Helper()
	config := Config{Role: RoleAPIServer, DataDir: t.TempDir(), InMemory: true, NoSockets: true}
	change(&config)
	c, err := Start(t.Context(), config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// routes are paths of everything that the server serves: those of its configuration, of each kind with and without a name, of each
// subresource that any kind has, and some that nobody serves.
func routes(c *Cluster) []string {
	paths := append(c.Server().Routes(), "/", "/nope", "/apis/nope.io/v1/things", "/api/v1/watch/pods", "/api/v1/proxy/nodes/n", "/logs/", "/debug/pprof/heap",
		"/healthz/etcd", "/livez/ping", "/readyz/log", "/openapi/v3/api/v1", "/apis/apps/v1", "/api//v1/pods", "/API/v1/pods", "/api/v1/pods/", "//api/v1/secrets", "/api/v1/../v1/secrets")
	for _, k := range api.Kinds() {
		base := "/api/" + k.Version
		if k.Group != "" {
			base = "/apis/" + k.Group + "/" + k.Version
		}
		paths = append(paths, base+"/"+k.Resource, base+"/watch/"+k.Resource)
		if k.Scope == resource.Namespaced {
			base += "/namespaces/default"
			paths = append(paths, base+"/"+k.Resource)
		}
		one := base + "/" + k.Resource + "/x"
		paths = append(paths, one)
		for _, sub := range []string{
			"status", "scale", "binding", "eviction", "ephemeralcontainers", "resize", "token", "approval", "finalize", "log", "exec", "attach", "portforward",
			"proxy", "proxy/a/b", "nope",
		} {
			paths = append(paths, one+"/"+sub)
		}
	}
	return paths
}

// TestNothingIsServedUnauthorized walks every route with every method: an authorizer that refuses everything must always win, and
// without anonymous requests nobody must get further than authentication.
func TestNothingIsServedUnauthorized(t *testing.T) {
	no := false
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   int
	}{
		{"refused", func(c *Config) { c.Security.AuthorizationModes = []string{"AlwaysDeny"} }, http.StatusForbidden},
		{"unknown", func(c *Config) { c.Security.AnonymousAuth = &no }, http.StatusUnauthorized},
	} {
		c := start(t, test.change)
		paths := routes(c)
		if len(paths) < 1000 {
			t.Fatalf("only %d paths", len(paths))
		}
		for _, path := range paths {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "NOPE"} {
				r := httptest.NewRequest(method, "/", strings.NewReader("{}"))
				r.URL.Path = path
				w := httptest.NewRecorder()
				c.Server().Handler().ServeHTTP(w, r)
				if w.Code != test.want {
					t.Errorf("%s: %s %s answered %d: %.200s", test.name, method, path, w.Code, w.Body)
				}
			}
		}
	}
}

func TestAnonymousOnlyWhereAllowed(t *testing.T) {
	c := start(t, func(c *Config) {
		c.Security.AuthenticationConfig = write(t, "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration, anonymous: {enabled: true, conditions: [{path: /livez}]}}")
	})
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusUnauthorized, "/api/v1/pods": http.StatusUnauthorized} {
		w := httptest.NewRecorder()
		c.Server().Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", path, w.Code, want)
		}
	}
}
