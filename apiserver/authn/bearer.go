// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
)

// ErrInvalidToken says that nobody knows a token, in Kubernetes' words.
var ErrInvalidToken = errors.New("invalid bearer token")

// StaticToken is a token given in the configuration.
type StaticToken struct {
	Token    string
	Identity call.Identity
}

// Source recognises tokens of one kind: JWTs of other issuers, or those that a webhook knows.
type Source interface {
	// Review returns nil and no error for a token that is not of this kind.
	Review(ctx context.Context, token string, audiences []string) (*Recognized, error)
}

// Tokens recognises bearer tokens of every kind.
type Tokens struct {
	issuer  *Issuer
	objects *Objects
	now     func() time.Time
	static  map[[sha256.Size]byte]*call.Identity
	others  []Source
	used    func(ctx context.Context, secret *corev1.Secret)
	known   Memory[[sha256.Size]byte, *Claims]
	figures *Figures
}

// Recognized is who a token is, and for which of the audiences asked about.
type Recognized struct {
	Identity  *call.Identity
	Audiences []string
	// Warnings are for the client.
	Warnings []string
}

// Authenticate implements Authenticator for "Authorization: Bearer" and for WebSockets of browsers, which carry the token
// in the name of a protocol.
func (t *Tokens) Authenticate(r *http.Request) (*call.Identity, error) {
	var problems []error
	if token := bearer(r); token != "" {
		user, err := t.authenticate(r.Context(), token)
		if err == nil {
			return user, nil
		}
		problems = append(problems, err)
	}
	token, err := webSocketToken(r.Header)
	if err != nil {
		problems = append(problems, err)
	}
	if token != "" {
		user, err := t.authenticate(r.Context(), token)
		if err == nil {
			return user, nil
		}
		problems = append(problems, err)
	}
	return nil, utilerrors.NewAggregate(problems)
}

func (t *Tokens) authenticate(ctx context.Context, token string) (*call.Identity, error) {
	found, err := t.Review(ctx, token, nil)
	if err != nil {
		return nil, err
	}
	if len(found.Warnings) > 0 {
		warn(ctx, found.Warnings)
	}
	return found.Identity, nil
}

func bearer(r *http.Request) string {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	token, more, _ := strings.Cut(rest, " ")
	if token == "" && more != "" {
		warn(r.Context(), []string{"the provided Authorization header contains extra space before the bearer token, and is ignored"})
	}
	return token
}

// webSocketProtocol is the prefix of the protocol that carries a token, base64url without padding.
const webSocketProtocol = "base64url.bearer.authorization.k8s.io."

// webSocketToken reads the token that a request for a WebSocket names as one of its protocols. There must be another protocol,
// which the server can choose.
func webSocketToken(h http.Header) (string, error) {
	if !strings.EqualFold(h.Get("Upgrade"), "websocket") || !strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade") {
		return "", nil
	}
	token, others := "", false
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for protocol := range strings.SplitSeq(line, ",") {
			encoded, ok := strings.CutPrefix(strings.TrimSpace(protocol), webSocketProtocol)
			if !ok {
				others = true
				continue
			}
			if token != "" {
				return "", errors.New("multiple base64.bearer.authorization tokens specified")
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil {
				return "", fmt.Errorf("invalid base64.bearer.authorization token encoding: %w", err)
			}
			if !utf8.Valid(decoded) {
				return "", errors.New("invalid base64.bearer.authorization token")
			}
			token = string(decoded)
		}
	}
	if token != "" && !others {
		return "", errors.New("missing additional subprotocol")
	}
	return token, nil
}

// Review tells who a token is. The token must be for one of audiences, or for the API server if there are none. The error
// says in Kubernetes' words what is wrong; it is ErrInvalidToken if nobody knows the token.
func (t *Tokens) Review(ctx context.Context, token string, audiences []string) (*Recognized, error) {
	sum := sha256.Sum256([]byte(token))
	if identity := t.static[sum]; identity != nil {
		return t.forServer(clone(identity), audiences)
	}
	if id, secret, ok := bootstrapToken(token); ok {
		identity, err := t.bootstrap(ctx, id, secret)
		if err == nil {
			return t.forServer(identity, audiences)
		}
	}
	problems := []error{ErrInvalidToken}
	found, err := t.own(ctx, sum, token, audiences)
	for _, source := range t.others {
		if found != nil {
			break
		}
		if err != nil && !errors.Is(err, ErrInvalidToken) {
			problems = append(problems, err)
		}
		found, err = source.Review(ctx, token, audiences)
	}
	if found != nil {
		return found, nil
	}
	if err != nil && !errors.Is(err, ErrInvalidToken) {
		problems = append(problems, err)
	}
	if len(problems) == 1 {
		return nil, ErrInvalidToken
	}
	return nil, utilerrors.NewAggregate(problems)
}

// own recognises the tokens of service accounts; nil and no error for a token that is none.
func (t *Tokens) own(ctx context.Context, sum [sha256.Size]byte, token string, audiences []string) (*Recognized, error) {
	if t.issuer == nil || strings.Count(token, ".") != 2 {
		return nil, nil
	}
	claims, ok := t.known.Get(sum)
	if ok {
		t.figures.hit()
	} else {
		began := t.now()
		var err error
		claims, err = t.issuer.parse(token)
		if errors.Is(err, errForeign) {
			return nil, nil
		}
		t.figures.missed(t.now().Sub(began), err)
		if err != nil {
			return nil, err
		}
		t.known.Put(sum, claims)
	}
	found, err := t.serviceAccount(ctx, claims, token, audiences)
	if found != nil {
		t.figures.used(claims, len(found.Warnings) > 0, t.now())
	}
	return found, err
}

// payloadOf returns the middle part of a JWT.
func payloadOf(token string) ([]byte, bool) {
	_, rest, ok := strings.Cut(token, ".")
	middle, _, ok2 := strings.Cut(rest, ".")
	if !ok || !ok2 {
		return nil, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(middle)
	return payload, err == nil
}

// forServer: tokens without audience are for the API server.
func (t *Tokens) forServer(identity *call.Identity, audiences []string) (*Recognized, error) {
	if len(audiences) == 0 || t.issuer == nil {
		return &Recognized{Identity: identity}, nil
	}
	common := intersect(audiences, t.issuer.cfg.Audiences)
	if len(common) == 0 {
		return nil, ErrInvalidToken
	}
	return &Recognized{Identity: identity, Audiences: common}, nil
}

func intersect(a, b []string) (common []string) {
	for _, s := range a {
		if slices.Contains(b, s) && !slices.Contains(common, s) {
			common = append(common, s)
		}
	}
	return common
}

// bootstrapToken splits a token of the form ID.SECRET; see https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
func bootstrapToken(token string) (id, secret string, ok bool) {
	id, secret, ok = strings.Cut(token, ".")
	return id, secret, ok && len(id) == 6 && len(secret) == 16 && only(id, "") && only(secret, "")
}

// only says whether a text consists of lower-case letters, digits and what more has.
func only(text, more string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(more, c)
	})
}

const bootstrapGroup = "system:bootstrappers"

// isBootstrapExtra says whether a token's further group looks as it must; one that does not makes the token useless, as in Kubernetes.
func isBootstrapExtra(group string) bool {
	rest, ok := strings.CutPrefix(group, bootstrapGroup+":")
	return ok && len(rest) > 0 && len(rest) <= 256 && only(rest, ":-") && only(rest[len(rest)-1:], "")
}

func (t *Tokens) bootstrap(ctx context.Context, id, secret string) (*call.Identity, error) {
	o, err := t.objects.Get(ctx, core.Secrets.Kind, "kube-system", "bootstrap-token-"+id)
	if err != nil {
		return nil, ErrInvalidToken
	}
	s := core.Secrets.Cast(o)
	if s.Type != corev1.SecretTypeBootstrapToken || s.DeletionTimestamp != nil || string(s.Data["token-id"]) != id ||
		subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1 || string(s.Data["usage-bootstrap-authentication"]) != "true" {
		return nil, ErrInvalidToken
	}
	if expiration := string(s.Data["expiration"]); expiration != "" {
		end, err := time.Parse(time.RFC3339, expiration)
		if err != nil || t.now().After(end) {
			return nil, ErrInvalidToken
		}
	}
	groups := []string{bootstrapGroup}
	if extra := string(s.Data["auth-extra-groups"]); extra != "" {
		for group := range strings.SplitSeq(extra, ",") {
			if !isBootstrapExtra(group) {
				return nil, ErrInvalidToken
			}
			groups = append(groups, group)
		}
	}
	slices.Sort(groups)
	return &call.Identity{Name: "system:bootstrap:" + id, Groups: slices.Compact(groups)}, nil
}
