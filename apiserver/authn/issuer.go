// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// DefaultIssuer is who signs tokens, and for whom, unless told otherwise.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// legacyIssuer signed the tokens in Secrets of type kubernetes.io/service-account-token.
const legacyIssuer = "kubernetes/serviceaccount"

// errForeign says that a token is not one of ours, so that others may know it.
var errForeign = errors.New("the token is of another issuer")

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
	// Legacy is set for tokens in Secrets, where Kubernetes says nothing.
	Legacy *Legacy `json:"-"`
}

// IssuerConfig says how service account tokens are signed and which ones are recognised.
type IssuerConfig struct {
	// Key signs: an ECDSA or RSA key.
	Key crypto.Signer
	// URLs name the issuer: the first one is written into tokens, all are accepted. DefaultIssuer if there are none.
	URLs []string
	// Audiences are those of the API server; the first URL if there are none.
	Audiences []string
	// Keys are further public keys whose signatures are accepted, as after the signing key was changed.
	Keys []crypto.PublicKey
	// MaxLifetime bounds what a TokenRequest gets; 0 is no bound.
	MaxLifetime time.Duration
	// NoExtension gives pods' mounted tokens the lifetime that was asked for, instead of a year with a warning after it.
	NoExtension bool
	// KeysURI is where others find the keys, instead of the server's own /openid/v1/jwks.
	KeysURI string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Issuer signs service account tokens with the cluster's key and knows its own signature. It is safe for concurrent use.
type Issuer struct {
	cfg    IssuerConfig
	keys   []verificationKey // the signing one is first
	signer jose.Signer
}

type verificationKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	public    crypto.PublicKey
}

// NewIssuer returns an issuer.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if len(cfg.URLs) == 0 {
		cfg.URLs = []string{DefaultIssuer}
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = cfg.URLs[:1]
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	i := &Issuer{cfg: cfg}
	for _, public := range append([]crypto.PublicKey{cfg.Key.Public()}, cfg.Keys...) {
		k, err := newVerificationKey(public)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(i.keys, func(other verificationKey) bool { return other.id == k.id }) {
			i.keys = append(i.keys, k)
		}
	}
	var err error
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: i.keys[0].algorithm, Key: jose.JSONWebKey{Key: cfg.Key, KeyID: i.keys[0].id}}, nil)
	if err != nil {
		return nil, fmt.Errorf("use the key of service account tokens: %w", err)
	}
	return i, nil
}

func newVerificationKey(public crypto.PublicKey) (verificationKey, error) {
	k := verificationKey{public: public}
	switch p := public.(type) {
	case *rsa.PublicKey:
		k.algorithm = jose.RS256
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
			k.algorithm = jose.ES256
		case elliptic.P384():
			k.algorithm = jose.ES384
		case elliptic.P521():
			k.algorithm = jose.ES512
		}
	}
	if k.algorithm == "" {
		return k, fmt.Errorf("service account tokens cannot be signed with a %T", public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return k, fmt.Errorf("encode a public key of service account tokens: %w", err)
	}
	sum := sha256.Sum256(der)
	k.id = base64.RawURLEncoding.EncodeToString(sum[:])
	return k, nil
}

// Audiences returns the API server's own audiences.
func (i *Issuer) Audiences() []string { return i.cfg.Audiences }

// MaxLifetime bounds the lifetime of tokens that are asked for; 0 is no bound.
func (i *Issuer) MaxLifetime() time.Duration { return i.cfg.MaxLifetime }

// Extends says whether tokens that pods mount live longer than asked, with a warning.
func (i *Issuer) Extends() bool { return !i.cfg.NoExtension }

// issued is what a token says that is signed here: Claims, except that one audience is a list too.
type issued struct {
	Issuer     string           `json:"iss,omitempty"`
	Subject    string           `json:"sub,omitempty"`
	Audience   []string         `json:"aud,omitempty"`
	Expiry     *jwt.NumericDate `json:"exp,omitempty"`
	NotBefore  *jwt.NumericDate `json:"nbf,omitempty"`
	IssuedAt   *jwt.NumericDate `json:"iat,omitempty"`
	ID         string           `json:"jti,omitempty"`
	Kubernetes *Bound           `json:"kubernetes.io,omitempty"`
}

func subjectOf(namespace, account string) string {
	return "system:serviceaccount:" + namespace + ":" + account
}

// Issue signs a token for what b names, valid from now for lifetime; id is its credential ID.
func (i *Issuer) Issue(b *Bound, audiences []string, lifetime time.Duration) (token, id string, err error) {
	now := i.cfg.Now()
	id = string(uuid.NewUUID())
	token, err = jwt.Signed(i.signer).Claims(&issued{
		Issuer: i.cfg.URLs[0], Subject: subjectOf(b.Namespace, b.Account.Name), Audience: audiences,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(lifetime)),
		ID: id, Kubernetes: b,
	}).Serialize()
	if err != nil {
		return "", "", fmt.Errorf("sign a token for %s/%s: %w", b.Namespace, b.Account.Name, err)
	}
	return token, id, nil
}

// IssueLegacy signs a token without end for a Secret of type kubernetes.io/service-account-token.
func (i *Issuer) IssueLegacy(l *Legacy) (string, error) {
	claims := jwt.Claims{Issuer: legacyIssuer, Subject: subjectOf(l.Namespace, l.Account)}
	token, err := jwt.Signed(i.signer).Claims(claims).Claims(l).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token for the secret %s/%s: %w", l.Namespace, l.Secret, err)
	}
	return token, nil
}

// SignLegacy is IssueLegacy by values, for the loop that fills such Secrets.
func (i *Issuer) SignLegacy(namespace, account, uid, secret string) (string, error) {
	return i.IssueLegacy(&Legacy{Namespace: namespace, Account: account, UID: uid, Secret: secret})
}

// parse checks signature and issuer of a token, not whether it still holds. errForeign leaves it to others.
func (i *Issuer) parse(token string) (*Claims, error) {
	iss := issuerOf(token)
	if iss != legacyIssuer && !slices.Contains(i.cfg.URLs, iss) {
		return nil, errForeign
	}
	token = strings.Map(func(c rune) rune {
		if unicode.IsSpace(c) {
			return -1
		}
		return c
	}, token)
	// Any algorithm of a key will do: keys are public ones, so that none can stand for a shared secret.
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{algorithmOf(token)})
	if err != nil {
		return nil, ErrInvalidToken
	}
	claims, legacy := &Claims{}, &Legacy{}
	if iss == legacyIssuer {
		claims.Legacy = legacy
	}
	if err := i.verify(parsed, claims, legacy); err != nil {
		return nil, err
	}
	return claims, nil
}

var errNoKeys = errors.New("invalid signature, no keys found")

// verify tries the key that the token names, or all if it names none.
func (i *Issuer) verify(parsed *jwt.JSONWebToken, into ...any) error {
	named := ""
	if len(parsed.Headers) > 0 {
		named = parsed.Headers[0].KeyID
	}
	var problems []error
	for _, k := range i.keys {
		if named != "" && k.id != named {
			continue
		}
		err := parsed.Claims(k.public, into...)
		if err == nil {
			return nil
		}
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		return errNoKeys
	}
	return utilerrors.NewAggregate(problems)
}

// algorithmOf reads how a JWT says that it is signed.
func algorithmOf(token string) jose.SignatureAlgorithm {
	var header struct {
		Algorithm jose.SignatureAlgorithm `json:"alg"`
	}
	first, _, _ := strings.Cut(token, ".")
	if raw, err := base64.RawURLEncoding.DecodeString(first); err != nil || json.Unmarshal(raw, &header) != nil {
		return ""
	}
	return header.Algorithm
}

// issuerOf reads the issuer of a JWT without checking anything; empty if it is none.
func issuerOf(token string) string {
	payload, ok := payloadOf(token)
	if !ok {
		return ""
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// Configuration serves /.well-known/openid-configuration. base is the URL at which others reach the server.
func (i *Issuer) Configuration(base string) http.Handler {
	uri := i.cfg.KeysURI
	if uri == "" {
		uri = base + "/openid/v1/jwks"
	}
	var algorithms []string
	for _, k := range i.keys {
		if !slices.Contains(algorithms, string(k.algorithm)) {
			algorithms = append(algorithms, string(k.algorithm))
		}
	}
	slices.Sort(algorithms)
	return document("application/json", struct {
		Issuer     string   `json:"issuer"`
		Keys       string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{i.cfg.URLs[0], uri, []string{"id_token"}, []string{"public"}, algorithms})
}

// Keys serves /openid/v1/jwks.
func (i *Issuer) Keys() http.Handler {
	set := jose.JSONWebKeySet{}
	for _, k := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(k.algorithm), Use: "sig"})
	}
	return document("application/jwk-set+json", set)
}

func document(contentType string, value any) http.Handler {
	body, err := json.Marshal(value)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if r.Method != http.MethodGet {
			refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
			return
		}
		if !acceptable(strings.Join(r.Header.Values("Accept"), ","), contentType) {
			refuse(w, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "406: Not Acceptable\n\nAvailable representations: "+contentType)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Write(body) //nolint:errcheck // the client is gone
	})
}

// acceptable tells whether an Accept header admits a media type.
func acceptable(header, media string) bool {
	if strings.TrimSpace(header) == "" {
		return true
	}
	kind, _, _ := strings.Cut(media, "/")
	for part := range strings.SplitSeq(header, ",") {
		accepted, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(accepted) {
		case media, "*/*", kind + "/*":
			return true
		}
	}
	return false
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	body, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code),
		Reason: reason, Details: &metav1.StatusDetails{}, Message: message,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(body, '\n')) //nolint:errcheck // the client is gone
}
