// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestDistributedGroups(t *testing.T) {
	c, p := &clock{start}, newProvider(t)
	var answer, sent string
	code, asked := http.StatusOK, 0
	groups := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = r.Header.Get("Authorization")
		asked++
		w.WriteHeader(code)
		fmt.Fprint(w, answer)
	}))
	groups.TLS = p.TLS.Clone() // of the same certificate, which the issuer's authority vouches for
	groups.StartTLS()
	defer groups.Close()
	j := NewJWTs(JWTOptions{Now: c.Now})
	if err := p.configure(t, j, `  claimMappings: {username: {claim: sub, prefix: ""}, groups: {claim: groups, prefix: "g:"}}`+"\n"); err != nil {
		t.Fatal(err)
	}
	elsewhere := func(source any) map[string]any {
		return map[string]any{"_claim_names": map[string]string{"groups": "s"}, "_claim_sources": map[string]any{"s": source}}
	}
	at := map[string]string{"endpoint": groups.URL + "/groups", "access_token": "secret"}
	foreign := newProvider(t)
	foreign.URL = p.URL
	for _, test := range []struct {
		name   string
		claims map[string]any
		answer string
		code   int
		want   string // groups or error
	}{
		{"elsewhere", elsewhere(at), p.token(t, c, map[string]any{"groups": []string{"a", "b"}}), 200, "[g:a g:b]"},
		{"one", elsewhere(at), p.token(t, c, map[string]any{"groups": "a"}), 200, "[g:a]"},
		{"here too", map[string]any{"groups": []string{"here"}, "_claim_names": map[string]string{"groups": "s"}, "_claim_sources": map[string]any{"s": at}}, "", 200, "[g:here]"},
		{"another claim", map[string]any{"_claim_names": map[string]string{"roles": "s"}, "_claim_sources": map[string]any{"s": at}}, "", 200, "[]"},
		{"aggregated", elsewhere(map[string]string{"JWT": "x"}), "", 200, "[]"},
		{"no source", map[string]any{"_claim_names": map[string]string{"groups": "s"}}, "", 200,
			"oidc: verify token: oidc: source does not exist"},
		{"without the claim", elsewhere(at), p.token(t, c, nil), 200, `oidc: jwt returned by distributed claim endpoint "` + at["endpoint"] + `" did not contain claim: groups`},
		{"refused", elsewhere(at), "", 403, `oidc: while getting distributed claim "groups": error while getting distributed claim JWT: 403 Forbidden`},
		{"no token", elsewhere(at), "hello", 200, "oidc: getting untrusted issuer from endpoint"},
		{"forged", elsewhere(at), foreign.token(t, c, map[string]any{"groups": "a"}), 200, "oidc: verify distributed claim token:"},
		{"expired", elsewhere(at), p.token(t, c, map[string]any{"groups": "a", "exp": start.Unix() - 1}), 200, "oidc: verify distributed claim token:"},
		{"other audience", elsewhere(at), p.token(t, c, map[string]any{"groups": "a", "aud": "x"}), 200, "oidc: verify distributed claim token: expected audience"},
		{"plain text", elsewhere(map[string]string{"endpoint": "http://127.0.0.1:1/"}), "", 200, `oidc: while getting distributed claim "groups": "http://127.0.0.1:1/" is not an https URL`},
		{"issuer in plain text", elsewhere(at), p.token(t, c, map[string]any{"groups": "a", "iss": "http://x"}), 200, `oidc: distributed claim token: issuer "http://x" is not`},
		{"too large", elsewhere(at), strings.Repeat("a", maxDistributed+1), 200, `oidc: while getting distributed claim "groups": the answer of`},
	} {
		answer, code = test.answer, test.code
		test.claims["jti"] = test.name
		found, err := j.Review(t.Context(), p.token(t, c, test.claims), nil)
		got := fmt.Sprint(err)
		if err == nil && found != nil {
			got = fmt.Sprint(found.Identity.Groups)
		}
		if !strings.HasPrefix(got, test.want) {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
	if sent != "Bearer secret" {
		t.Errorf("sent %q", sent)
	}
	answer, asked = p.token(t, c, map[string]any{"groups": "a"}), 0
	token := p.token(t, c, elsewhere(at))
	for _, want := range []int{1, 1, 2} {
		if _, err := j.Review(t.Context(), token, nil); err != nil || asked != want {
			t.Errorf("asked %d times, %v; want %d", asked, err, want)
		}
		if want == asked && want == 1 {
			c.now = c.now.Add(distributedTTL - time.Second)
		}
	}
}
