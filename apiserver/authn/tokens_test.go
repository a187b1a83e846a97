// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
)

// forger signs whatever it is told with the cluster's key.
type forger struct {
	key *rsa.PrivateKey
	id  string
}

// sign makes a token of the claims of a good one, changed as told: a null takes a claim away. header is one of JSON; {} stands for
// RS256 and the key's ID.
func (f forger) sign(t *testing.T, header, change string) string {
	t.Helper()
	claims := map[string]any{
		"iss": DefaultIssuer, "sub": "system:serviceaccount:n:sa", "aud": []string{DefaultIssuer},
		"exp": start.Add(time.Hour).Unix(), "iat": start.Unix(), "nbf": start.Unix(), "jti": "id",
		"kubernetes.io": map[string]any{"namespace": "n", "serviceaccount": Reference{"sa", "sa-uid"}},
	}
	changes := map[string]any{}
	if err := json.Unmarshal([]byte(change), &changes); err != nil {
		t.Fatalf("%s: %v", change, err)
	}
	if _, legacy := changes["kubernetes.io/serviceaccount/namespace"]; legacy {
		claims = map[string]any{"iss": legacyIssuer, "sub": "system:serviceaccount:n:sa"}
	}
	for name, value := range changes {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	if header == "{}" {
		header = `{"alg":"RS256","kid":"` + f.id + `"}`
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum, hash := sha256.Sum256([]byte(signed)), crypto.SHA256
	digest := sum[:]
	if strings.Contains(header, "RS512") {
		long := sha512.Sum512([]byte(signed))
		digest, hash = long[:], crypto.SHA512
	}
	signature, err := rsa.SignPKCS1v15(rand.Reader, f.key, hash, digest)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// What Kubernetes v1.36 was seen to say about tokens that were signed by its own key.
func TestOddTokens(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	store, bind := world(), &Objects{}
	bind.Bind(store)
	store[core.Secrets.Kind] = append(store[core.Secrets.Kind], &corev1.Secret{ObjectMeta: meta("n", "s", "s-uid")})
	store[core.Nodes.Kind] = append(store[core.Nodes.Kind], &corev1.Node{ObjectMeta: meta("", "n1", "n1-uid")})
	c := &clock{start}
	issuer, err := NewIssuer(IssuerConfig{Key: key, Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	tokens := NewTokens(Config{Issuer: issuer, Objects: bind, Now: c.Now})
	f := forger{key, issuer.keys[0].id}
	bound := func(more string) string {
		return `{"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"sa","uid":"sa-uid"},` + more + `}}`
	}
	legacy := func(namespace, secret, account, uid, more string) string {
		const prefix = `"kubernetes.io/serviceaccount/`
		return `{` + prefix + `namespace":"` + namespace + `",` + prefix + `secret.name":"` + secret + `",` + prefix + `service-account.name":"` + account + `",` +
			prefix + `service-account.uid":"` + uid + `"` + more + `}`
	}
	const crypto = "go-jose/go-jose: error in cryptographic primitive"
	others := []string{"other"}
	for _, test := range []struct {
		name, header, change string
		audiences            []string
		want                 string // after "invalid bearer token"; "-" is nothing more, "" is that the token is good
	}{
		{"good", `{}`, `{}`, nil, ""},
		{"no key is named", `{"alg":"RS256"}`, `{}`, nil, ""},
		{"a key is named that is not there", `{"alg":"RS256","kid":"x"}`, `{}`, nil, "invalid signature, no keys found"},
		{"another algorithm of the key", `{"alg":"RS512"}`, `{}`, nil, ""},
		{"another algorithm than the key's", `{"alg":"HS256"}`, `{}`, nil, crypto},
		{"no signature", `{"alg":"none"}`, `{}`, nil, crypto},
		{"no algorithm", `{"typ":"JWT"}`, `{}`, nil, crypto},
		{"another issuer", `{}`, `{"iss":"https://other"}`, nil, "-"},
		{"no expiry", `{}`, `{"exp":null}`, nil, ""},
		{"expired, and for others", `{}`, `{"exp":1}`, others, `token audiences ["https://kubernetes.default.svc.cluster.local"] is invalid for the target audiences ["other"]`},
		{"no audience", `{}`, `{"aud":null}`, nil, ""},
		{"no audience, and for others", `{}`, `{"aud":null}`, others, `token audiences ["https://kubernetes.default.svc.cluster.local"] is invalid for the target audiences ["other"]`},
		{"an audience that is none", `{}`, `{"aud":5}`, nil, "go-jose/go-jose/jwt: expected string or array value to unmarshal to Audience"},
		{"a time that is none", `{}`, `{"exp":"x"}`, nil, "go-jose/go-jose/jwt: expected number value to unmarshal NumericDate"},
		{"not yet valid", `{}`, `{"nbf":1767225670}`, nil, "service account token is not valid yet"},
		{"nearly valid", `{}`, `{"nbf":1767225650,"iat":1767225650}`, nil, ""},
		{"from the future", `{}`, `{"iat":1767225670}`, nil, "service account token is issued in the future"},
		{"all times wrong", `{}`, `{"exp":1,"nbf":1767225670,"iat":1767225670}`, nil, "service account token is not valid yet"},
		{"another subject", `{}`, `{"sub":"x"}`, nil, ""},
		{"nothing of Kubernetes", `{}`, `{"kubernetes.io":null}`, nil, "resource name may not be empty"},
		{"no namespace", `{}`, `{"kubernetes.io":{"serviceaccount":{"name":"sa","uid":"sa-uid"}}}`, nil, "the server could not find the requested resource"},
		{"another namespace", `{}`, `{"kubernetes.io":{"namespace":"n2","serviceaccount":{"name":"sa","uid":"sa-uid"}}}`, nil, `serviceaccounts "sa" not found`},
		{"an account that cannot be", `{}`, `{"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"a/b","uid":"sa-uid"}}}`, nil, `invalid resource name "a/b": [may not contain '/']`},
		{"no UID", `{}`, `{"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"sa"}}}`, nil, "service account UID (sa-uid) does not match claim ()"},
		{"a secret that is gone", `{}`, bound(`"secret":{"name":"x","uid":"s-uid"}`), nil, "service account token has been invalidated"},
		{"another secret, pod and node", `{}`, bound(`"secret":{"name":"s","uid":"x"},"pod":{"name":"p","uid":"y"},"node":{"name":"n1","uid":"z"}`), nil, "secret UID (s-uid) does not match service account secret ref claim (x)"},
		{"another pod", `{}`, bound(`"pod":{"name":"p"}`), nil, "pod UID (p-uid) does not match service account pod ref claim ()"},
		{"another node", `{}`, bound(`"node":{"name":"n1","uid":"z"}`), nil, "node UID (n1-uid) does not match service account node ref claim (z)"},
		{"another node of a pod", `{}`, bound(`"pod":{"name":"p","uid":"p-uid"},"node":{"name":"n1","uid":"z"}`), nil, ""},
		{"legacy without namespace", `{}`, legacy("", "", "", "", ""), nil, "namespace claim is missing"},
		{"legacy without secret", `{}`, legacy("n", "", "", "", ""), nil, "secretName claim is missing"},
		{"legacy without account", `{}`, legacy("n", "s", "", "", ""), nil, "serviceAccountName claim is missing"},
		{"legacy without UID", `{}`, legacy("n", "s", "sa", "", ""), nil, "serviceAccountUID claim is missing"},
		{"legacy of another subject", `{}`, legacy("n", "x", "sa", "sa-uid", `,"sub":"x"`), nil, "sub claim is invalid"},
		{"legacy for others", `{}`, legacy("n", "s", "sa", "sa-uid", `,"aud":["x"]`), nil, `token audiences ["x"] is invalid for the target audiences ["https://kubernetes.default.svc.cluster.local"]`},
		{"legacy, secret gone", `{}`, legacy("n", "x", "sa", "sa-uid", ""), nil, "Token has been invalidated"},
		{"legacy, secret changed", `{}`, legacy("n", "s", "sa", "sa-uid", ""), nil, "Token does not match server's copy"},
	} {
		want := "[invalid bearer token, " + test.want + "]"
		if test.want == "-" {
			want = "invalid bearer token"
		}
		_, err := tokens.Review(t.Context(), f.sign(t, test.header, test.change), test.audiences)
		if test.want == "" && err != nil || test.want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := tokens.Review(t.Context(), f.sign(t, `{}`, `{}`)+" ", nil); err != nil {
		t.Errorf("with a space at the end: %v", err)
	}
}

// One audience is a list, as others expect.
func TestAudienceIsAList(t *testing.T) {
	_, _, issuer, _ := setup(t)
	token, _, err := issuer.Issue(bound(), issuer.Audiences(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := payloadOf(token)
	if want := `"aud":["` + DefaultIssuer + `"]`; !strings.Contains(string(payload), want) {
		t.Errorf("%s lacks %s", payload, want)
	}
}

// What Kubernetes v1.36 was seen to make of tokens in the names of protocols.
func TestWebSocketTokens(t *testing.T) {
	_, _, _, tokens := setup(t)
	const good = webSocketProtocol + "c3RhdGljLXNlY3JldA"
	for _, test := range []struct {
		connection, authorization, protocols string
		want                                 string // user; "" is nobody, "-" an error
	}{
		{"Upgrade", "", "v5.channel.k8s.io, " + good, "bot"},
		{"keep-alive, upgrade", "", good + ", v5.channel.k8s.io", "bot"},
		{"Upgrade", "", good + ",", "bot"},
		{"", "", good + ",v5.channel.k8s.io", ""},
		{"Upgrade", "Bearer bogus", good + ",v5.channel.k8s.io", "bot"},
		{"Upgrade", "Bearer bogus", "v5.channel.k8s.io", "-"},
		{"Upgrade", "", good, "-"},
		{"Upgrade", "", good + "," + good + ",v5.channel.k8s.io", "-"},
		{"Upgrade", "", webSocketProtocol + ",v5.channel.k8s.io", ""},
		{"Upgrade", "", webSocketProtocol + "!!,v5.channel.k8s.io", "-"},
		{"Upgrade", "", good + "==,v5.channel.k8s.io", "-"},
		{"Upgrade", "", webSocketProtocol + "_w,v5.channel.k8s.io", "-"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for name, value := range map[string]string{
			"Upgrade": "websocket", "Connection": test.connection, "Authorization": test.authorization, "Sec-WebSocket-Protocol": test.protocols,
		} {
			r.Header.Set(name, value)
		}
		user, err := tokens.Authenticate(r)
		got := ""
		switch {
		case err != nil:
			got = "-"
		case user != nil:
			got = user.Name
		}
		if got != test.want {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
	}
}
