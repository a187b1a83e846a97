// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// gate stands before a server: it refuses some requests, and remembers all.
type gate struct {
	next http.Handler

	mu     sync.Mutex
	seen   []string
	refuse func(r *http.Request) *metav1.Status // nil lets r through
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.seen = append(g.seen, r.Method+" "+r.URL.RequestURI())
	var status *metav1.Status
	if g.refuse != nil {
		status = g.refuse(r)
	}
	g.mu.Unlock()
	if status == nil {
		g.next.ServeHTTP(w, r)
		return
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if status.Code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "0")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

// next makes the gate refuse the next n requests that want says.
func (g *gate) refuseNext(n int, want func(*http.Request) bool, err *apierrors.StatusError) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = func(r *http.Request) *metav1.Status {
		if n == 0 || !want(r) {
			return nil
		}
		n--
		return &err.ErrStatus
	}
}

func (g *gate) count(part string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.seen {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

func watching(r *http.Request) bool { return r.URL.Query().Has("watch") }

func newMap(name string) *call.Request {
	return &call.Request{Verb: "create", Kind: core.ConfigMaps.Kind, Namespace: "default", Object: &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
	}}
}

func TestBusyServersAreAskedAgain(t *testing.T) {
	g := &gate{next: serve(t).Handler()}
	h := dial(t, overHTTP(t, g))
	busy := apierrors.NewTooManyRequests("later", 0)
	any := func(*http.Request) bool { return true }
	g.refuseNext(2, any, busy)
	if _, err := h.Do(t.Context(), newMap("a")); err != nil {
		t.Fatalf("after two refusals: %v", err)
	}
	if n := g.count("POST"); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	g.refuseNext(-1, any, busy)
	if _, err := h.Do(t.Context(), newMap("b")); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a server that is always busy: %v", err)
	}
}

// shows waits until a view shows exactly the named config maps of the namespace default.
func shows(t *testing.T, v call.View, want ...string) {
	t.Helper()
	for {
		var got []string
		v.List("default", func(o resource.Object) bool {
			got = append(got, o.GetName())
			return true
		})
		if slices.Equal(got, want) {
			return
		}
		runtime.Gosched()
		if t.Context().Err() != nil {
			t.Fatalf("the view shows %v, want %v", got, want)
		}
	}
}

func TestViewsListByPagesWhereListsDoNotStream(t *testing.T) {
	g := &gate{next: serve(t).Handler()}
	g.refuse = func(r *http.Request) *metav1.Status {
		if r.URL.Query().Has("sendInitialEvents") {
			s := apierrors.NewBadRequest("sendInitialEvents is not known").Status()
			return &s
		}
		return nil
	}
	h, other := dial(t, overHTTP(t, g)), dial(t, overHTTP(t, g.next))
	for _, name := range []string{"a", "b"} {
		if _, err := other.Do(t.Context(), newMap(name)); err != nil {
			t.Fatal(err)
		}
	}
	v, err := h.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind})
	if err != nil {
		t.Fatal(err)
	}
	shows(t, v, "a", "b")
	if _, err := other.Do(t.Context(), newMap("c")); err != nil {
		t.Fatal(err)
	}
	shows(t, v, "a", "b", "c")
	if g.count("limit=500") != 1 {
		t.Errorf("requests: %v", g.seen)
	}
}

func TestViewsSurviveBrokenConnectionsAndLostHistory(t *testing.T) {
	g := &gate{next: serve(t).Handler()}
	cfg := overHTTP(t, g)
	h, other := dial(t, cfg), dial(t, overHTTP(t, g.next))
	v, err := h.View(t.Context(), &call.Request{Kind: core.ConfigMaps.Kind})
	if err != nil {
		t.Fatal(err)
	}
	for i, refusal := range []*apierrors.StatusError{
		apierrors.NewInternalError(http.ErrServerClosed), apierrors.NewResourceExpired("too old"),
	} {
		g.refuseNext(1, watching, refusal)
		h.Break()
		name := string(rune('a' + i))
		if _, err := other.Do(t.Context(), newMap(name)); err != nil {
			t.Fatal(err)
		}
		shows(t, v, []string{"a", "b"}[:i+1]...)
	}
	if n := g.count("sendInitialEvents=true"); n != 2 {
		t.Errorf("%d lists, want one and one more after the history was lost", n)
	}
}

func TestRefusedViewsFailAndAreAskedForAgain(t *testing.T) {
	g := &gate{next: serve(t).Handler()}
	h := dial(t, overHTTP(t, g))
	g.refuseNext(1, watching, apierrors.NewForbidden(core.ConfigMaps.GroupResource(), "", nil))
	q := &call.Request{Kind: core.ConfigMaps.Kind}
	if _, err := h.View(t.Context(), q); !apierrors.IsForbidden(err) {
		t.Fatalf("got %v", err)
	}
	for {
		_, err := h.View(t.Context(), q)
		if err == nil {
			return
		}
		if !apierrors.IsForbidden(err) { // until the first is forgotten
			t.Fatal(err)
		}
	}
}

func TestCredentialsAreReread(t *testing.T) {
	server := serve(t).Handler()
	var mu sync.Mutex
	valid := "one"
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ok := r.Header.Get("Authorization") == "Bearer "+valid
		mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		server.ServeHTTP(w, r)
	})
	cfg := overHTTP(t, h)
	cfg.TokenFile = filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(cfg.TokenFile, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	c := dial(t, cfg)
	if _, err := c.Do(t.Context(), newMap("a")); err != nil {
		t.Fatal(err)
	}
	write("two")
	mu.Lock()
	valid = "two"
	mu.Unlock()
	if _, err := c.Do(t.Context(), newMap("b")); err != nil {
		t.Errorf("after the token was renewed: %v", err)
	}
	mu.Lock()
	valid = "three"
	mu.Unlock()
	if _, err := c.Do(t.Context(), newMap("c")); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a token that is not valid: %v", err)
	}
}

func TestUnreachableServers(t *testing.T) {
	h := dial(t, client.HTTPConfig{Server: "https://127.0.0.1:1"})
	if _, err := h.Do(t.Context(), newMap("a")); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if _, err := client.NewHTTP(client.HTTPConfig{Server: "ftp://x"}); err == nil {
		t.Error("an ftp URL was accepted")
	}
}
