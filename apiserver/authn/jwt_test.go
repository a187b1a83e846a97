// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// provider is an OpenID Connect provider.
type provider struct {
	*httptest.Server
	signer jose.Signer
	ca     string
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q}`, p.URL, p.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	if p.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil); err != nil {
		t.Fatal(err)
	}
	p.ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	return p
}

func (p *provider) token(t *testing.T, c *clock, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": p.URL, "aud": []string{"knarr", "other"}, "exp": c.now.Unix() + 60, "iat": c.now.Unix(), "sub": "s1", "jti": "j1"}
	for k, v := range more {
		claims[k] = v
		if v == nil {
			delete(claims, k)
		}
	}
	token, err := jwt.Signed(p.signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (p *provider) configure(t *testing.T, j *JWTs, text string) error {
	t.Helper()
	ca, err := json.Marshal(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	file, err := ParseConfiguration([]byte(`
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: "` + p.URL + `", audiences: [knarr], certificateAuthority: ` + string(ca) + `}
` + text))
	if err != nil {
		return err
	}
	return j.Set(file.JWT, nil)
}

func TestJWT(t *testing.T) {
	c, p := &clock{start}, newProvider(t)
	j := NewJWTs(JWTOptions{Now: c.Now})
	plain := `  claimMappings: {username: {claim: sub, prefix: "oidc:"}, groups: {claim: groups, prefix: "g:"}, uid: {claim: uid}}
  claimValidationRules: [{claim: tenant, requiredValue: a}]
`
	cel := `  claimMappings:
    username: {expression: "claims.email.split('@')[0]"}
    groups: {expression: "claims.roles.map(r, 'role:' + r)"}
    extra: [{key: acme.io/team, valueExpression: "claims.team"}]
  claimValidationRules: [{expression: "claims.exp - claims.iat <= 3600 && claims.?email_verified.orValue(true) == true", message: too long}]
  userValidationRules: [{expression: "!user.username.startsWith('system:')", message: reserved}]
`
	for _, test := range []struct {
		name, config string
		claims       map[string]any
		want         string // identity or error
	}{
		{"claims", plain, map[string]any{"groups": []string{"a", "b"}, "uid": "7", "tenant": "a"}, `oidc:s1 "7" [g:a g:b] map[authentication.kubernetes.io/credential-id:[JTI=j1]]`},
		{"one group", plain, map[string]any{"groups": "a", "uid": "7", "tenant": "a", "jti": nil}, `oidc:s1 "7" [g:a] map[]`},
		{"without uid", plain, map[string]any{"tenant": "a"}, `oidc: claim "uid" is not present or not a string`},
		{"other tenant", plain, map[string]any{"tenant": "b", "uid": "7"}, `oidc: required claim tenant value does not match. Got = b, want = a`},
		{"no tenant", plain, map[string]any{"uid": "7"}, `oidc: required claim tenant not present in ID token`},
		{"expired", plain, map[string]any{"exp": start.Unix() - 1}, `oidc: verify token: oidc: token is expired`},
		{"other audience", plain, map[string]any{"aud": "x"}, `oidc: verify token: expected audience in ["knarr"] got ["x"]`},
		{"expressions", cel, map[string]any{"email": "jane@acme.io", "email_verified": true, "roles": []string{"dev"}, "team": []string{"", "x"}},
			`jane "" [role:dev] map[acme.io/team:[x] authentication.kubernetes.io/credential-id:[JTI=j1]]`},
		{"no team", cel, map[string]any{"email": "jane@acme.io", "roles": []string{}, "team": nil, "jti": nil}, `oidc: extra acme.io/team`},
		{"claim rule", cel, map[string]any{"email": "jane@acme.io", "exp": start.Unix() + 7200}, `oidc: validation expression 'claims.exp - claims.iat`},
		{"user rule", cel, map[string]any{"email": "system:admin@acme.io", "email_verified": true, "roles": []string{}, "team": ""}, `oidc: validation expression '!user.username.startsWith('system:')' failed: reserved`},
	} {
		if err := p.configure(t, j, test.config); err != nil {
			t.Fatal(err)
		}
		found, err := j.Review(t.Context(), p.token(t, c, test.claims), nil)
		got := fmt.Sprint(err)
		if err == nil && found != nil {
			i := found.Identity
			got = fmt.Sprintf("%s %q %v %v", i.Name, i.UID, i.Groups, i.Extra)
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
	foreign := newProvider(t)
	if found, err := j.Review(t.Context(), foreign.token(t, c, nil), nil); found != nil || err != nil {
		t.Errorf("another issuer: %v, %v", found, err)
	}
	foreign.URL = p.URL
	if found, err := j.Review(t.Context(), foreign.token(t, c, nil), nil); found != nil || err == nil {
		t.Errorf("a forged token: %v, %v", found, err)
	}
}

func TestJWTConfigurationIsChecked(t *testing.T) {
	p, j := newProvider(t), NewJWTs(JWTOptions{})
	for _, bad := range []string{
		"  claimMappings: {username: {claim: sub}}\n", "  claimMappings: {username: {expression: 'claims.sub', prefix: x}}\n", "  claimMappings: {}\n",
		"  claimMappings: {username: {expression: '1'}}\n", "  claimMappings: {username: {expression: 'claims.'}}\n", "  nope: 1\n",
		"  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: Foo, valueExpression: \"'x'\"}]}\n",
		"  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: kubernetes.io/x, valueExpression: \"'x'\"}]}\n",
		"  claimMappings: {username: {claim: sub, prefix: ''}}\n  userValidationRules: [{expression: 'user.nope == 1'}]\n",
		"  claimMappings: {username: {claim: sub, prefix: ''}}\nanonymous: {enabled: false, conditions: [{path: /x}]}\n",
	} {
		if err := p.configure(t, j, bad); err == nil {
			t.Errorf("accepted\n%s", bad)
		}
	}
}
