// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
)

// Bounds of distributed claims.
const (
	distributedTimeout = 10 * time.Second // for the claim; issuers have as much again
	distributedTTL     = 10 * time.Second // how long an answer counts for the same token, as for all tokens in Kubernetes
	maxDistributed     = 1 << 20          // bytes of a token with a claim
	maxOtherIssuers    = 16
	maxResolved        = 1024
)

// distributed resolves the claim of groups where a token says that it is elsewhere: _claim_names names a source, _claim_sources where the
// source is, and there is a token of the same or another issuer that has the claim. See OpenID Connect Core 1.0, section 5.6.2.
type distributed struct {
	issuer *jwtIssuer

	mu       sync.Mutex
	others   map[string]*jwtIssuer // by URL
	resolved map[[sha256.Size]byte]resolvedClaim
}

type resolvedClaim struct {
	value any
	until time.Time
}

// endpoint is where a claim is; one without URL is an aggregated claim, which is not used.
type endpoint struct{ url, accessToken string }

// findDistributed returns where a claim is; false if it is not elsewhere.
func findDistributed(claims map[string]any, claim string) (endpoint, bool, error) {
	names, _ := claims["_claim_names"].(map[string]any)
	source, ok := names[claim].(string)
	if !ok {
		return endpoint{}, false, nil
	}
	sources, _ := claims["_claim_sources"].(map[string]any)
	at, ok := sources[source].(map[string]any)
	if !ok {
		return endpoint{}, false, fmt.Errorf("id token _claim_names contained a source %s missing in _claims_sources", source)
	}
	var e endpoint
	e.url, _ = at["endpoint"].(string)
	e.accessToken, _ = at["access_token"].(string)
	return e, e.url != "", nil
}

// expand puts the claim of groups into the claims of a token, unless it is there.
func (d *distributed) expand(ctx context.Context, token string, claims map[string]any) error {
	claim := d.issuer.cfg.ClaimMappings.Groups.Claim
	if _, here := claims[claim]; claim == "" || here {
		return nil
	}
	at, elsewhere, err := findDistributed(claims, claim)
	if err != nil || !elsewhere {
		return err
	}
	key, now := sha256.Sum256([]byte(token)), d.issuer.now()
	d.mu.Lock()
	known, ok := d.resolved[key]
	d.mu.Unlock()
	if ok && now.Before(known.until) {
		claims[claim] = known.value
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, distributedTimeout)
	defer cancel()
	value, err := d.resolve(ctx, at, claim)
	if err != nil {
		return err
	}
	claims[claim] = value
	d.remember(key, value, now)
	return nil
}

func (d *distributed) remember(key [sha256.Size]byte, value any, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.resolved) >= maxResolved {
		for k, c := range d.resolved {
			if !now.Before(c.until) {
				delete(d.resolved, k)
			}
		}
		if len(d.resolved) >= maxResolved {
			return
		}
	}
	if d.resolved == nil {
		d.resolved = map[[sha256.Size]byte]resolvedClaim{}
	}
	d.resolved[key] = resolvedClaim{value, now.Add(distributedTTL)}
}

// resolve asks for the token that has a claim, verifies it as one of its own issuer, and returns the claim.
func (d *distributed) resolve(ctx context.Context, at endpoint, claim string) (any, error) {
	token, err := d.ask(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("while getting distributed claim %q: %w", claim, err)
	}
	iss := issuerOf(token)
	if iss == "" {
		return nil, fmt.Errorf("getting untrusted issuer from endpoint %v failed for claim %q", at.url, claim)
	}
	issuer, err := d.of(iss)
	if err != nil {
		return nil, err
	}
	keys, err := issuer.keySet(ctx)
	if err != nil {
		return nil, fmt.Errorf("verifying untrusted issuer %v failed: %w", iss, err)
	}
	parsed, err := oidc.NewVerifier(iss, keys, &oidc.Config{
		SkipClientIDCheck: true, SupportedSigningAlgs: d.issuer.algorithms, Now: d.issuer.now,
	}).Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("verify distributed claim token: %w", err)
	}
	if audiences := d.issuer.cfg.Issuer.Audiences; len(intersect(audiences, parsed.Audience)) == 0 {
		return nil, fmt.Errorf("verify distributed claim token: expected audience in %q got %q", audiences, parsed.Audience)
	}
	claims := map[string]any{}
	if err := parsed.Claims(&claims); err != nil {
		return nil, fmt.Errorf("could not parse distributed claims for claim %v: %w", claim, err)
	}
	value, ok := claims[claim]
	if !ok {
		return nil, fmt.Errorf("jwt returned by distributed claim endpoint %q did not contain claim: %v", at.url, claim)
	}
	return value, nil
}

func (d *distributed) ask(ctx context.Context, at endpoint) (string, error) {
	if !strings.HasPrefix(at.url, "https://") {
		return "", fmt.Errorf("%q is not an https URL", at.url)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url, nil)
	if err != nil {
		return "", fmt.Errorf("while calling %v: %w", at.url, err)
	}
	if at.accessToken != "" {
		r.Header.Set("Authorization", "Bearer "+at.accessToken)
	}
	answer, err := d.issuer.client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDistributed+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("could not decode distributed claim response: %w", err)
	case answer.StatusCode < http.StatusOK || answer.StatusCode > http.StatusIMUsed:
		return "", fmt.Errorf("error while getting distributed claim JWT: %v", answer.Status)
	case len(body) > maxDistributed:
		return "", fmt.Errorf("the answer of %v is too large", at.url)
	}
	return string(body), nil
}

// of returns the issuer of a URL, whose keys are looked up once.
func (d *distributed) of(url string) (*jwtIssuer, error) {
	if url == d.issuer.cfg.Issuer.URL {
		return d.issuer, nil
	}
	if !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("distributed claim token: issuer %q is not an https URL", url)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	other := d.others[url]
	if other == nil {
		if len(d.others) >= maxOtherIssuers {
			return nil, fmt.Errorf("distributed claim token: %d other issuers are known, none more is taken", maxOtherIssuers)
		}
		other = &jwtIssuer{
			cfg:        &apiserverv1.JWTAuthenticator{Issuer: apiserverv1.Issuer{URL: url}},
			algorithms: d.issuer.algorithms, now: d.issuer.now, client: d.issuer.client,
		}
		if d.others == nil {
			d.others = map[string]*jwtIssuer{}
		}
		d.others[url] = other
	}
	return other, nil
}
