// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/pki"
)

// objects is a small store.
type objects map[*resource.Kind][]resource.Object

func (s objects) Get(_ context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	for _, o := range s[kind] {
		if o.GetNamespace() == namespace && o.GetName() == name {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(kind.GroupResource(), name)
}

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

func world() objects {
	bootstrap := &corev1.Secret{ObjectMeta: meta("kube-system", "bootstrap-token-abcdef", "u"), Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{
		"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
		"auth-extra-groups": []byte("system:bootstrappers:nodes,system:bootstrappers:a,system:bootstrappers:nodes"), "expiration": []byte("2026-06-01T00:00:00Z"),
	}}
	return objects{
		core.ServiceAccounts.Kind: {&corev1.ServiceAccount{ObjectMeta: meta("n", "sa", "sa-uid")}},
		core.Pods.Kind:            {&corev1.Pod{ObjectMeta: meta("n", "p", "p-uid")}},
		core.Secrets.Kind:         {bootstrap},
	}
}

// clock is a settable clock.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func bound() *Bound {
	return &Bound{Namespace: "n", Account: Reference{"sa", "sa-uid"}, Pod: &Reference{"p", "p-uid"}, Node: &Reference{"n1", ""}}
}

func setup(t *testing.T) (*clock, objects, *Issuer, *Tokens) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, store, bind := &clock{start}, world(), &Objects{}
	issuer, err := NewIssuer(IssuerConfig{Key: key, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	bind.Bind(store)
	return c, store, issuer, NewTokens(Config{
		Issuer: issuer, Objects: bind, Now: c.Now, Static: []StaticToken{{"static-secret", call.Identity{Name: "bot", Groups: []string{"bots"}}}},
	})
}

func TestServiceAccountTokens(t *testing.T) {
	const invalidated = "[invalid bearer token, service account token has been invalidated]"
	for _, test := range []struct {
		name   string
		after  time.Duration
		change func(objects)
		want   string
	}{
		{name: "good"},
		{name: "expired, by a clock that may be wrong", after: time.Hour + 59*time.Second},
		{name: "expired", after: time.Hour + 61*time.Second, want: "[invalid bearer token, service account token has expired]"},
		{name: "pod gone", change: func(s objects) { s[core.Pods.Kind] = nil }, want: invalidated},
		{name: "another pod of that name", change: func(s objects) { s[core.Pods.Kind][0].SetUID("other") }, want: "[invalid bearer token, pod UID (other) does not match service account pod ref claim (p-uid)]"},
		{name: "pod ended long ago", after: 2 * time.Minute, change: func(s objects) { s[core.Pods.Kind][0].SetDeletionTimestamp(&metav1.Time{Time: start}) }, want: invalidated},
		{name: "pod is ending", change: func(s objects) { s[core.Pods.Kind][0].SetDeletionTimestamp(&metav1.Time{Time: start}) }},
		{name: "account gone", change: func(s objects) { s[core.ServiceAccounts.Kind] = nil }, want: `[invalid bearer token, serviceaccounts "sa" not found]`},
		{name: "another account of that name", change: func(s objects) { s[core.ServiceAccounts.Kind][0].SetUID("other") }, want: "[invalid bearer token, service account UID (other) does not match claim (sa-uid)]"},
	} {
		c, store, issuer, tokens := setup(t)
		token, _, err := issuer.Issue(bound(), issuer.Audiences(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.Review(t.Context(), token, nil); err != nil { // so that the signature is remembered
			t.Fatal(err)
		}
		c.now = c.now.Add(test.after)
		if test.change != nil {
			test.change(store)
		}
		found, err := tokens.Review(t.Context(), token, nil)
		if test.want != "" {
			if err == nil || err.Error() != test.want {
				t.Errorf("%s: error %v, want %s", test.name, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		i := found.Identity
		if i.Name != "system:serviceaccount:n:sa" || i.UID != "sa-uid" || !slices.Equal(i.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:n"}) ||
			i.Extra[podNameKey][0] != "p" || i.Extra[podUIDKey][0] != "p-uid" || i.Extra[nodeNameKey][0] != "n1" || !strings.HasPrefix(i.Extra[credentialKey][0], "JTI=") {
			t.Errorf("%s: %+v", test.name, i)
		}
	}
}

func TestTokens(t *testing.T) {
	_, store, issuer, tokens := setup(t)
	other, _, err := issuer.Issue(bound(), []string{"vault"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := NewIssuer(IssuerConfig{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := foreign.Issue(bound(), issuer.Audiences(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := issuer.IssueLegacy(&Legacy{"n", "sa", "sa-uid", "old"})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := issuer.IssueLegacy(&Legacy{"n", "sa", "sa-uid", "lost"})
	if err != nil {
		t.Fatal(err)
	}
	store[core.Secrets.Kind] = append(store[core.Secrets.Kind], &corev1.Secret{ObjectMeta: meta("n", "old", "s"), Data: map[string][]byte{"token": []byte(legacy)}})
	for _, test := range []struct {
		name, token string
		audiences   []string
		want        string // the user, or the error
	}{
		{"static", "static-secret", nil, "bot"},
		{"garbage", "nonsense", nil, "invalid bearer token"},
		{"three parts", "a.b.c", nil, "invalid bearer token"},
		{"forged", forged, nil, "[invalid bearer token, invalid signature, no keys found]"},
		{"bootstrap", "abcdef.0123456789abcdef", nil, "system:bootstrap:abcdef"},
		{"bootstrap, wrong secret", "abcdef.0123456789abcdee", nil, "invalid bearer token"},
		{"for somebody else", other, nil, `[invalid bearer token, token audiences ["vault"] is invalid for the target audiences ["https://kubernetes.default.svc.cluster.local"]]`},
		{"reviewed by somebody else", other, []string{"vault", "x"}, "system:serviceaccount:n:sa"},
		{"legacy", legacy, nil, "system:serviceaccount:n:sa"},
		{"legacy, secret gone", lost, nil, "[invalid bearer token, Token has been invalidated]"},
	} {
		found, err := tokens.Review(t.Context(), test.token, test.audiences)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = found.Identity.Name
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestBearer(t *testing.T) {
	_, _, _, tokens := setup(t)
	for _, test := range []struct {
		header, want string
		fails        bool
	}{
		{header: "Bearer static-secret", want: "bot"},
		{header: "bearer static-secret", want: "bot"},
		{header: "Bearer "},
		{header: "Basic dTpw"},
		{header: ""},
		{header: "Bearer nonsense", fails: true},
		{header: "Bearer static-secret more", want: "bot"},
		{header: "Bearer  static-secret"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", test.header)
		user, err := tokens.Authenticate(r)
		if (err != nil) != test.fails || (user != nil) != (test.want != "") || user != nil && user.Name != test.want {
			t.Errorf("%q: %+v, %v", test.header, user, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	c := &clock{start}
	set, err := pki.Open(t.TempDir(), pki.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := pki.Open(t.TempDir(), pki.Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(s *pki.Set) *x509.Certificate {
		data, _, err := s.IssueClient("jane", []string{"dev", "ops"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	authenticator := New(Config{ClientCAs: set.ClientCAs, Now: c.Now})[0]
	own, foreign := certificate(set), certificate(stranger)
	for _, test := range []struct {
		leaf  *x509.Certificate
		after time.Duration
		fails bool
	}{{own, 0, false}, {own, time.Minute, false}, {foreign, 0, true}, {own, 2 * time.Hour, true}} {
		c.now = start.Add(test.after)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{test.leaf}}
		user, err := authenticator.Authenticate(r)
		if (err != nil) != test.fails {
			t.Errorf("after %v: %v", test.after, err)
			continue
		}
		if err == nil && (user.Name != "jane" || !slices.Equal(user.Groups, []string{"dev", "ops"})) {
			t.Errorf("%+v", user)
		}
	}
}

func TestDiscovery(t *testing.T) {
	_, _, issuer, _ := setup(t)
	for _, test := range []struct {
		handler http.Handler
		kind    string
		want    string
	}{
		{issuer.Configuration("https://10.0.0.1:6443"), "application/json", `"jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks"`},
		{issuer.Keys(), "application/jwk-set+json", `"alg":"ES256"`},
	} {
		w := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		test.handler.ServeHTTP(w, request)
		if !json.Valid(w.Body.Bytes()) || !strings.Contains(w.Body.String(), test.want) || w.Header().Get("Content-Type") != test.kind {
			t.Errorf("%v %s", w.Header(), w.Body)
		}
		for accept, want := range map[string]int{"text/plain": 406, "text/plain, */*;q=0.1": 200, test.kind: 200, "application/*": 200} {
			request.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			if test.handler.ServeHTTP(w, request); w.Code != want {
				t.Errorf("%s as %s: %d", test.kind, accept, w.Code)
			}
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var m Memory[int, int]
	for i := range 10 * memoryLimit {
		m.Put(i, i)
		m.Get(0)
	}
	if n := len(m.young) + len(m.older); n > 2*memoryLimit {
		t.Errorf("%d values", n)
	}
	if v, ok := m.Get(0); !ok || v != 0 {
		t.Error("what is asked for is forgotten")
	}
}

// What Kubernetes v1.36 was seen to answer to tokens of such Secrets.
func TestBootstrapTokens(t *testing.T) {
	for _, test := range []struct {
		name string
		data map[string]string // over those of a good token
		want []string          // groups; nil if refused
	}{
		{"plain", nil, []string{"system:bootstrappers"}},
		{"no expiration", map[string]string{"expiration": ""}, []string{"system:bootstrappers"}},
		{"future", map[string]string{"expiration": "2099-01-01T00:00:00Z"}, []string{"system:bootstrappers"}},
		{"expired", map[string]string{"expiration": "2020-01-01T00:00:00Z"}, nil},
		{"unreadable expiration", map[string]string{"expiration": "tomorrow"}, nil},
		{"other usage", map[string]string{"usage-bootstrap-authentication": "false"}, nil},
		{"other spelling", map[string]string{"usage-bootstrap-authentication": "True"}, nil},
		{"another secret", map[string]string{"token-secret": "0123456789abcdee"}, nil},
		{"another ID", map[string]string{"token-id": "abcdeg"}, nil},
		{
			"groups, one twice", map[string]string{"auth-extra-groups": "system:bootstrappers:b,system:bootstrappers:a,system:bootstrappers:b"},
			[]string{"system:bootstrappers", "system:bootstrappers:a", "system:bootstrappers:b"},
		},
		{"a group of others", map[string]string{"auth-extra-groups": "system:bootstrappers:a,system:masters"}, nil},
		{"a group with a space", map[string]string{"auth-extra-groups": "system:bootstrappers:a, system:bootstrappers:b"}, nil},
		{"a group with a capital", map[string]string{"auth-extra-groups": "system:bootstrappers:A"}, nil},
		{"a group without name", map[string]string{"auth-extra-groups": "system:bootstrappers:a,"}, nil},
	} {
		_, all, _, tokens := setup(t)
		secret := all[core.Secrets.Kind][0].(*corev1.Secret)
		delete(secret.Data, "auth-extra-groups")
		for key, value := range test.data {
			secret.Data[key] = []byte(value)
		}
		found, err := tokens.Review(t.Context(), "abcdef.0123456789abcdef", nil)
		switch {
		case test.want == nil:
			if !errors.Is(err, ErrInvalidToken) {
				t.Errorf("%s: got %v, %v, want it refused", test.name, found, err)
			}
		case err != nil || found.Identity.Name != "system:bootstrap:abcdef" || !slices.Equal(found.Identity.Groups, test.want):
			t.Errorf("%s: got %+v, %v", test.name, found, err)
		}
	}
}
