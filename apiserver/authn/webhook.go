// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authenticationv1beta1 "k8s.io/api/authentication/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/callout"
)

// WebhookConfig describes a webhook that knows tokens.
type WebhookConfig struct {
	Client *callout.Client
	// Version is that of the TokenReview which is sent: v1 or v1beta1.
	Version string
	// TTL is how long answers are remembered; 0 is not at all.
	TTL time.Duration
	// Audiences are those of the API server.
	Audiences []string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Webhook asks a webhook for whom a token is. It is a Source.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication.
type Webhook struct {
	cfg   WebhookConfig
	known Memory[[sha256.Size]byte, reviewed]
}

type reviewed struct {
	found *Recognized
	until time.Time
}

// NewWebhook returns the source.
func NewWebhook(cfg WebhookConfig) *Webhook {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Webhook{cfg: cfg}
}

// Review implements Source.
func (w *Webhook) Review(ctx context.Context, token string, audiences []string) (*Recognized, error) {
	if len(audiences) == 0 {
		audiences = w.cfg.Audiences
	}
	key := sha256.Sum256([]byte(token + "\x00" + strings.Join(audiences, "\x00")))
	now := w.cfg.Now()
	if r, ok := w.known.Get(key); ok && now.Before(r.until) {
		return r.found, nil
	}
	status, err := w.ask(ctx, token, audiences)
	if err != nil {
		return nil, fmt.Errorf("token webhook: %w", err)
	}
	r := reviewed{until: now.Add(w.cfg.TTL)}
	switch {
	case status.Authenticated:
		r.found = &Recognized{Identity: &call.Identity{Name: status.User.Username, UID: status.User.UID, Groups: status.User.Groups}}
		for k, v := range status.User.Extra {
			if r.found.Identity.Extra == nil {
				r.found.Identity.Extra = map[string][]string{}
			}
			r.found.Identity.Extra[k] = v
		}
		// A webhook that says nothing of audiences is taken to know those of the API server alone.
		answered := status.Audiences
		if len(answered) == 0 {
			answered = w.cfg.Audiences
		}
		if r.found.Audiences = intersect(audiences, answered); len(r.found.Audiences) == 0 {
			return nil, nil
		}
	case status.Error != "":
		return nil, errors.New(status.Error)
	}
	if w.cfg.TTL > 0 && r.found != nil {
		w.known.Put(key, r)
	}
	return r.found, nil
}

func (w *Webhook) ask(ctx context.Context, token string, audiences []string) (*authenticationv1.TokenReviewStatus, error) {
	if w.cfg.Version == "v1" {
		review := &authenticationv1.TokenReview{
			TypeMeta: metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1"},
			Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
		}
		answer := &authenticationv1.TokenReview{}
		err := w.cfg.Client.Post(ctx, review, answer)
		return &answer.Status, err
	}
	review := &authenticationv1beta1.TokenReview{
		TypeMeta: metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1beta1"},
		Spec:     authenticationv1beta1.TokenReviewSpec{Token: token, Audiences: audiences},
	}
	answer := &authenticationv1beta1.TokenReview{}
	err := w.cfg.Client.Post(ctx, review, answer)
	status := &authenticationv1.TokenReviewStatus{Authenticated: answer.Status.Authenticated, Audiences: answer.Status.Audiences, Error: answer.Status.Error}
	status.User = authenticationv1.UserInfo{Username: answer.Status.User.Username, UID: answer.Status.User.UID, Groups: answer.Status.User.Groups}
	for k, v := range answer.Status.User.Extra {
		if status.User.Extra == nil {
			status.User.Extra = map[string]authenticationv1.ExtraValue{}
		}
		status.User.Extra[k] = authenticationv1.ExtraValue(v)
	}
	return status, err
}
