// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// DefaultIssuer is who signs tokens, and for whom, unless told otherwise.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// legacyIssuer signed the tokens in Secrets of type kubernetes.io/service-account-token.
const legacyIssuer = "kubernetes/serviceaccount"

// Reference names an object that a token is bound to.
type Reference struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// Bound is the claim kubernetes.io: whose token it is and on what it depends.
type Bound struct {
	Namespace string           `json:"namespace,omitempty"`
	Node      *Reference       `json:"node,omitempty"`
	Pod       *Reference       `json:"pod,omitempty"`
	Secret    *Reference       `json:"secret,omitempty"`
	Account   Reference        `json:"serviceaccount"`
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Legacy are the claims of a token in a Secret.
type Legacy struct {
	Namespace string `json:"kubernetes.io/serviceaccount/namespace"`
	Account   string `json:"kubernetes.io/serviceaccount/service-account.name"`
	UID       string `json:"kubernetes.io/serviceaccount/service-account.uid"`
	Secret    string `json:"kubernetes.io/serviceaccount/secret.name"`
}

// Claims is what a service account token says.
type Claims struct {
	jwt.Claims
	Kubernetes *Bound `json:"kubernetes.io,omitempty"`
	// Legacy is set instead of Kubernetes for tokens in Secrets.
	Legacy *Legacy `json:"-"`
}

// Issuer signs service account tokens with the cluster's key and knows its own signature. It is safe for concurrent use.
type Issuer struct {
	url       string
	audiences []string
	keyID     string
	algorithm jose.SignatureAlgorithm
	public    crypto.PublicKey
	signer    jose.Signer
	now       func() time.Time
}

// NewIssuer returns an issuer. key is an ECDSA P-256 or RSA key; url is DefaultIssuer if it is empty; audiences are those of the
// API server, url if there are none; now is time.Now if nil.
func NewIssuer(key crypto.Signer, url string, audiences []string, now func() time.Time) (*Issuer, error) {
	if url == "" {
		url = DefaultIssuer
	}
	if len(audiences) == 0 {
		audiences = []string{url}
	}
	if now == nil {
		now = time.Now
	}
	i := &Issuer{url: url, audiences: audiences, public: key.Public(), now: now}
	switch key.(type) {
	case *ecdsa.PrivateKey:
		i.algorithm = jose.ES256
	case *rsa.PrivateKey:
		i.algorithm = jose.RS256
	default:
		return nil, fmt.Errorf("service account tokens cannot be signed with a %T", key)
	}
	der, err := x509.MarshalPKIXPublicKey(i.public)
	if err != nil {
		return nil, fmt.Errorf("encode the public key of service account tokens: %w", err)
	}
	sum := sha256.Sum256(der)
	i.keyID = base64.RawURLEncoding.EncodeToString(sum[:])
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: i.algorithm, Key: jose.JSONWebKey{Key: key, KeyID: i.keyID}}, nil)
	if err != nil {
		return nil, fmt.Errorf("use the key of service account tokens: %w", err)
	}
	return i, nil
}

// Audiences returns the API server's own audiences.
func (i *Issuer) Audiences() []string { return i.audiences }

// Issue signs a token for what b names, valid from now for lifetime.
func (i *Issuer) Issue(b *Bound, audiences []string, lifetime time.Duration) (string, error) {
	now := i.now()
	token, err := jwt.Signed(i.signer).Claims(&Claims{
		Claims: jwt.Claims{
			Issuer: i.url, Subject: "system:serviceaccount:" + b.Namespace + ":" + b.Account.Name, Audience: audiences,
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(lifetime)),
			ID: string(uuid.NewUUID()),
		},
		Kubernetes: b,
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token for %s/%s: %w", b.Namespace, b.Account.Name, err)
	}
	return token, nil
}

// IssueLegacy signs a token without end for a Secret of type kubernetes.io/service-account-token.
func (i *Issuer) IssueLegacy(l *Legacy) (string, error) {
	claims := jwt.Claims{Issuer: legacyIssuer, Subject: "system:serviceaccount:" + l.Namespace + ":" + l.Account}
	token, err := jwt.Signed(i.signer).Claims(claims).Claims(l).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token for the secret %s/%s: %w", l.Namespace, l.Secret, err)
	}
	return token, nil
}

// parse checks signature, issuer and form of a token, not whether it still holds.
func (i *Issuer) parse(token string) (*Claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{i.algorithm})
	if err != nil {
		return nil, ErrInvalidToken
	}
	claims, legacy := &Claims{}, &Legacy{}
	if err := parsed.Claims(i.public, claims, legacy); err != nil {
		return nil, ErrInvalidToken
	}
	switch {
	case claims.Issuer == i.url && claims.Kubernetes != nil && claims.Expiry != nil:
		b := claims.Kubernetes
		if claims.Subject != "system:serviceaccount:"+b.Namespace+":"+b.Account.Name {
			return nil, ErrInvalidToken
		}
		return claims, nil
	case claims.Issuer == legacyIssuer && legacy.Secret != "" && claims.Subject == "system:serviceaccount:"+legacy.Namespace+":"+legacy.Account:
		claims.Legacy = legacy
		return claims, nil
	}
	return nil, ErrInvalidToken
}

// Configuration serves /.well-known/openid-configuration. base is the URL at which others reach the server.
func (i *Issuer) Configuration(base string) http.Handler {
	return document("application/json", map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              base + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(i.algorithm)},
	})
}

// Keys serves /openid/v1/jwks.
func (i *Issuer) Keys() http.Handler {
	return document("application/jwk-set+json", jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: i.public, KeyID: i.keyID, Algorithm: string(i.algorithm), Use: "sig"},
	}})
}

func document(contentType string, value any) http.Handler {
	body, err := json.Marshal(value)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(body) //nolint:errcheck // the client is gone
	})
}
