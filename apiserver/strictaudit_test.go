// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"knarr.dev/api"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/authn"
	"knarr.dev/store/pebble"
)

// full takes no events.
type full struct{}

func (full) Write(...*auditv1.Event) error { return io.ErrShortWrite }

// TestStrictAudit: what cannot be recorded is not served.
func TestStrictAudit(t *testing.T) {
	policy, err := audit.ParsePolicy([]byte("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s, err := apiserver.New(apiserver.Config{
		Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Authenticators: []authn.Authenticator{admin{}},
		Audit: audit.New(policy, []audit.Sink{audit.Strict{Sink: full{}}}, nil, nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps/leg", nil))
	const want = "Internal Server Error: \"/api/v1/namespaces/default/configmaps/leg\": failed to store audit event\n"
	if w.Code != http.StatusInternalServerError || w.Body.String() != want || w.Header().Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
