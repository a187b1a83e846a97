// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// JWTs recognises tokens that other issuers sign, as an AuthenticationConfiguration says. It may be replaced while it works.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration.
type JWTs struct {
	now     func() time.Time
	current atomic.Pointer[[]*jwtIssuer]
}

// JWTOptions tune NewJWTs; the zero value is usable.
type JWTOptions struct {
	// Algorithms are those of signatures; all asymmetric ones of JOSE if there are none.
	Algorithms []string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// NewJWTs returns a source that knows no issuer.
func NewJWTs(o JWTOptions) *JWTs {
	if o.Now == nil {
		o.Now = time.Now
	}
	j := &JWTs{now: o.Now}
	j.current.Store(&[]*jwtIssuer{})
	return j
}

// Set replaces the issuers. Nothing changes if one is not valid.
func (j *JWTs) Set(issuers []apiserverv1.JWTAuthenticator, algorithms []string) error {
	list := make([]*jwtIssuer, 0, len(issuers))
	var problems []error
	for i := range issuers {
		issuer, err := newJWTIssuer(&issuers[i], algorithms, j.now)
		if err != nil {
			problems = append(problems, fmt.Errorf("jwt[%d]: %w", i, err))
		}
		list = append(list, issuer)
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	j.current.Store(&list)
	return nil
}

// Review implements Source.
func (j *JWTs) Review(ctx context.Context, token string, audiences []string) (*Recognized, error) {
	issuers := *j.current.Load()
	if len(issuers) == 0 || strings.Count(token, ".") != 2 {
		return nil, nil
	}
	iss := issuerOf(token)
	for _, issuer := range issuers {
		if iss == "" || issuer.cfg.Issuer.URL != iss {
			continue
		}
		found, err := issuer.review(ctx, token, audiences)
		if err != nil {
			return nil, fmt.Errorf("oidc: %w", err)
		}
		return found, nil
	}
	return nil, nil
}

// retryDiscovery is how long an issuer that could not be reached is left alone.
const retryDiscovery = 10 * time.Second

// maxDiscovery bounds the discovery document.
const maxDiscovery = 1 << 20

// jwtIssuer is one issuer.
type jwtIssuer struct {
	cfg        *apiserverv1.JWTAuthenticator
	algorithms []string
	now        func() time.Time
	client     *http.Client
	mapping    *mapping
	elsewhere  *distributed // nil for an issuer of distributed claims only

	mu      sync.Mutex
	keys    *oidc.RemoteKeySet
	failed  error
	retryAt time.Time
}

func newJWTIssuer(cfg *apiserverv1.JWTAuthenticator, algorithms []string, now func() time.Time) (*jwtIssuer, error) {
	if err := checkIssuer(&cfg.Issuer); err != nil {
		return nil, err
	}
	m, err := newMapping(cfg)
	if err != nil {
		return nil, err
	}
	i := &jwtIssuer{cfg: cfg, algorithms: algorithms, now: now, mapping: m}
	i.elsewhere = &distributed{issuer: i}
	if len(i.algorithms) == 0 {
		i.algorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if ca := cfg.Issuer.CertificateAuthority; ca != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("issuer.certificateAuthority: it holds no certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	i.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return i, nil
}

// keySet discovers where the issuer's keys are, once.
func (i *jwtIssuer) keySet(ctx context.Context) (*oidc.RemoteKeySet, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keys != nil {
		return i.keys, nil
	}
	if now := i.now(); now.Before(i.retryAt) {
		return nil, i.failed
	}
	uri, err := i.discover(ctx)
	if err != nil {
		i.failed = fmt.Errorf("authenticator for issuer %q is not initialized: %w", i.cfg.Issuer.URL, err)
		i.retryAt = i.now().Add(retryDiscovery)
		return nil, i.failed
	}
	// The context only carries the client: the set outlives the request that made it.
	i.keys = oidc.NewRemoteKeySet(oidc.ClientContext(context.WithoutCancel(ctx), i.client), uri)
	return i.keys, nil
}

func (i *jwtIssuer) discover(ctx context.Context) (string, error) {
	at := strings.TrimSuffix(i.cfg.Issuer.URL, "/") + "/.well-known/openid-configuration"
	if d := i.cfg.Issuer.DiscoveryURL; d != nil && *d != "" {
		at = *d
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", err
	}
	answer, err := i.client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDiscovery))
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", at, answer.Status)
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return "", fmt.Errorf("%s: %w", at, err)
	}
	if document.Issuer != i.cfg.Issuer.URL {
		return "", fmt.Errorf("issuer did not match the issuer returned by provider, expected %q got %q", i.cfg.Issuer.URL, document.Issuer)
	}
	if document.Keys == "" {
		return "", fmt.Errorf("%s names no jwks_uri", at)
	}
	return document.Keys, nil
}

func (i *jwtIssuer) review(ctx context.Context, token string, audiences []string) (*Recognized, error) {
	keys, err := i.keySet(ctx)
	if err != nil {
		return nil, err
	}
	verifier := oidc.NewVerifier(i.cfg.Issuer.URL, keys, &oidc.Config{
		SkipClientIDCheck: true, SupportedSigningAlgs: i.algorithms, Now: i.now,
	})
	parsed, err := verifier.Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("verify token: %w", err)
	}
	if len(intersect(i.cfg.Issuer.Audiences, parsed.Audience)) == 0 {
		return nil, fmt.Errorf("verify token: expected audience in %q got %q", i.cfg.Issuer.Audiences, parsed.Audience)
	}
	claims := map[string]any{}
	if err := parsed.Claims(&claims); err != nil {
		return nil, fmt.Errorf("parse claims: %w", err)
	}
	if err := i.elsewhere.expand(ctx, token, claims); err != nil {
		return nil, err
	}
	identity, err := i.mapping.identity(ctx, claims)
	if err != nil {
		return nil, err
	}
	found := &Recognized{Identity: identity}
	if len(audiences) > 0 {
		if found.Audiences = intersect(audiences, parsed.Audience); len(found.Audiences) == 0 {
			return nil, fmt.Errorf("verify token: expected audience in %q got %q", audiences, parsed.Audience)
		}
	}
	return found, nil
}

func checkIssuer(i *apiserverv1.Issuer) error {
	var problems []error
	if !strings.HasPrefix(i.URL, "https://") {
		problems = append(problems, fmt.Errorf("issuer.url: %q is not an https URL", i.URL))
	}
	if i.DiscoveryURL != nil && *i.DiscoveryURL != "" {
		if !strings.HasPrefix(*i.DiscoveryURL, "https://") {
			problems = append(problems, fmt.Errorf("issuer.discoveryURL: %q is not an https URL", *i.DiscoveryURL))
		}
		if strings.TrimRight(*i.DiscoveryURL, "/") == strings.TrimRight(i.URL, "/") {
			problems = append(problems, errors.New("issuer.discoveryURL: it must be different from url"))
		}
	}
	switch {
	case len(i.Audiences) == 0:
		problems = append(problems, errors.New("issuer.audiences: Required value"))
	case slices.Contains(i.Audiences, ""):
		problems = append(problems, errors.New("issuer.audiences: an audience is empty"))
	case len(i.Audiences) > 1 && i.AudienceMatchPolicy != apiserverv1.AudienceMatchPolicyMatchAny:
		problems = append(problems, errors.New(`issuer.audienceMatchPolicy: it must be MatchAny for several audiences`))
	case i.AudienceMatchPolicy != "" && i.AudienceMatchPolicy != apiserverv1.AudienceMatchPolicyMatchAny:
		problems = append(problems, fmt.Errorf("issuer.audienceMatchPolicy: %q is not MatchAny", i.AudienceMatchPolicy))
	}
	return errors.Join(problems...)
}
