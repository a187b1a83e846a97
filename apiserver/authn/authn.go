// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package authn finds out who sent a request: by the word of a front proxy, by client certificate or by bearer token.
//
// It does not decide what they may do; that is authz. New lists the authenticators; Tokens, which one of them is, answers
// TokenReviews too, and Issuer signs what Tokens recognises. Tokens of other issuers are the matter of JWTs, which a
// configuration file or the --oidc flags describe, and of a webhook. The group system:authenticated is added by the server.
package authn

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
)

// Names of built-in users and groups.
const (
	Anonymous            = "system:anonymous"
	GroupUnauthenticated = "system:unauthenticated"
	GroupAuthenticated   = "system:authenticated"
	GroupMasters         = "system:masters"
	GroupNodes           = "system:nodes"
	GroupServiceAccounts = "system:serviceaccounts"
)

// Authenticator recognises one kind of credential.
type Authenticator interface {
	// Authenticate returns who sent the request; nil if it carries no credential of this kind; an error if the credential
	// is bad, which ends in 401.
	Authenticate(r *http.Request) (*call.Identity, error)
}

// Reader reads current objects, from the server's caches; admission.Reader is one. Objects are shared.
type Reader interface {
	// Get returns a NotFound API error if there is none.
	Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error)
}

// Objects is a Reader that is bound later: authenticators are made before the server whose caches they look into.
type Objects struct{ reader atomic.Pointer[Reader] }

// Bind says where to look.
func (o *Objects) Bind(r Reader) { o.reader.Store(&r) }

// Get implements Reader.
func (o *Objects) Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	r := o.reader.Load()
	if r == nil {
		return nil, errors.New("authn: not bound to the server's objects yet")
	}
	return (*r).Get(ctx, kind, namespace, name)
}

// Config says which credentials are recognised.
type Config struct {
	// ClientCAs are who vouches for client certificates; nil recognises none. Certificates are verified here: the TLS
	// layer should only request them (tls.RequestClientCert).
	ClientCAs func() *x509.CertPool
	// FrontProxy is which proxies are believed; nil is none.
	FrontProxy *FrontProxy
	// Issuer is whose service account tokens are recognised; nil is none.
	Issuer *Issuer
	// Objects are looked at to see whether tokens still hold; nil recognises neither service account nor bootstrap tokens.
	Objects *Objects
	// Static tokens come from the configuration.
	Static []StaticToken
	// Sources recognise further tokens, in order.
	Sources []Source
	// Used is told when a token in a Secret was used on another day than the Secret says; nil is nobody.
	Used func(ctx context.Context, secret *corev1.Secret)
	// Figures count the use of tokens; nil counts nothing.
	Figures *Figures
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// New returns the authenticators in order. A request that none recognises is anonymous.
func New(cfg Config) []Authenticator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	var list []Authenticator
	if cfg.FrontProxy != nil {
		list = append(list, &frontProxy{FrontProxy: *cfg.FrontProxy, now: cfg.Now})
	}
	if cfg.ClientCAs != nil {
		list = append(list, &certificates{roots: cfg.ClientCAs, now: cfg.Now})
	}
	return append(list, NewTokens(cfg))
}

// NewTokens returns what recognises bearer tokens; New includes one.
func NewTokens(cfg Config) *Tokens {
	t := &Tokens{
		issuer: cfg.Issuer, objects: cfg.Objects, now: cfg.Now, others: cfg.Sources, used: cfg.Used, figures: cfg.Figures,
		static: map[[sha256.Size]byte]*call.Identity{},
	}
	if t.now == nil {
		t.now = time.Now
	}
	if t.objects == nil {
		t.objects = &Objects{}
	}
	for i := range cfg.Static {
		t.static[sha256.Sum256([]byte(cfg.Static[i].Token))] = &cfg.Static[i].Identity
	}
	return t
}

type warningsKey struct{}

// WithWarnings returns a context in which authenticators leave warnings for the client with add.
func WithWarnings(ctx context.Context, add func(text string)) context.Context {
	return context.WithValue(ctx, warningsKey{}, add)
}

func warn(ctx context.Context, texts []string) {
	add, ok := ctx.Value(warningsKey{}).(func(string))
	if !ok {
		return
	}
	for _, text := range texts {
		add(text)
	}
}
