// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Keys of Identity.Extra.
const (
	credentialKey = "authentication.kubernetes.io/credential-id"
	podNameKey    = "authentication.kubernetes.io/pod-name"
	podUIDKey     = "authentication.kubernetes.io/pod-uid"
	nodeNameKey   = "authentication.kubernetes.io/node-name"
	nodeUIDKey    = "authentication.kubernetes.io/node-uid"
)

// Labels of Secrets with tokens; see https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/.
const (
	// LastUsedLabel is the day on which the token was last used.
	LastUsedLabel = "kubernetes.io/legacy-token-last-used"
	// InvalidSinceLabel says that the token is refused since that day, because nobody used it.
	InvalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

// deletionLeeway is how long a token outlives the end of what it is bound to, for a pod's last words.
const deletionLeeway = time.Minute

var (
	errInvalidated = errors.New("service account token has been invalidated")
	errExpired     = errors.New("service account token has expired")
	errNotYet      = errors.New("service account token is not valid yet")
)

// serviceAccount turns claims whose signature is good into an identity, if they still hold.
func (t *Tokens) serviceAccount(ctx context.Context, c *Claims, token string, audiences []string) (*Recognized, error) {
	now := t.now()
	switch {
	case c.Expiry != nil && !now.Before(c.Expiry.Time()):
		return nil, errExpired
	case c.NotBefore != nil && now.Add(time.Second).Before(c.NotBefore.Time()):
		return nil, errNotYet
	}
	wanted := audiences
	if len(wanted) == 0 {
		wanted = t.issuer.cfg.Audiences
	}
	common := intersect(wanted, c.Audience)
	if c.Legacy != nil {
		common = intersect(wanted, t.issuer.cfg.Audiences)
	}
	if len(common) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), wanted)
	}
	if c.Legacy != nil {
		warnings, err := t.checkLegacy(ctx, c.Legacy, token)
		if err != nil {
			return nil, err
		}
		return &Recognized{Identity: accountIdentity(c.Legacy.Namespace, c.Legacy.Account, c.Legacy.UID), Audiences: common, Warnings: warnings}, nil
	}
	b := c.Kubernetes
	if b == nil {
		return nil, ErrInvalidToken
	}
	if err := t.checkBound(ctx, b, now); err != nil {
		return nil, err
	}
	identity := accountIdentity(b.Namespace, b.Account.Name, b.Account.UID)
	identity.Extra = map[string][]string{}
	if c.ID != "" {
		identity.Extra[credentialKey] = []string{"JTI=" + c.ID}
	}
	if b.Pod != nil {
		identity.Extra[podNameKey], identity.Extra[podUIDKey] = []string{b.Pod.Name}, []string{b.Pod.UID}
	}
	if b.Node != nil {
		identity.Extra[nodeNameKey] = []string{b.Node.Name}
		if b.Node.UID != "" {
			identity.Extra[nodeUIDKey] = []string{b.Node.UID}
		}
	}
	return &Recognized{Identity: identity, Audiences: common}, nil
}

func accountIdentity(namespace, name, uid string) *call.Identity {
	return &call.Identity{
		Name: "system:serviceaccount:" + namespace + ":" + name, UID: uid,
		Groups: []string{GroupServiceAccounts, GroupServiceAccounts + ":" + namespace},
	}
}

// checkBound refuses tokens of accounts, pods, secrets and nodes that are gone or are not the same.
func (t *Tokens) checkBound(ctx context.Context, b *Bound, now time.Time) error {
	if err := t.same(ctx, core.ServiceAccounts.Kind, b.Namespace, &b.Account, now); err != nil {
		return err
	}
	if b.Pod != nil {
		if err := t.same(ctx, core.Pods.Kind, b.Namespace, b.Pod, now); err != nil {
			return err
		}
	}
	if b.Secret != nil {
		if err := t.same(ctx, core.Secrets.Kind, b.Namespace, b.Secret, now); err != nil {
			return err
		}
	}
	// The node of a pod is told, not checked: the pod's end is what counts.
	if b.Node != nil && b.Pod == nil {
		return t.same(ctx, core.Nodes.Kind, "", b.Node, now)
	}
	return nil
}

func (t *Tokens) same(ctx context.Context, kind *resource.Kind, namespace string, ref *Reference, now time.Time) error {
	o, err := t.objects.Get(ctx, kind, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return errInvalidated
	}
	if err != nil {
		return fmt.Errorf("look up the %s of a token: %w", kind.Singular, err)
	}
	if string(o.GetUID()) != ref.UID || ended(o, now) {
		return errInvalidated
	}
	return nil
}

func ended(o metav1.Object, now time.Time) bool {
	d := o.GetDeletionTimestamp()
	return d != nil && now.After(d.Add(deletionLeeway))
}

// checkLegacy checks a token that lives in a Secret, and tells that it was used.
func (t *Tokens) checkLegacy(ctx context.Context, l *Legacy, token string) (warnings []string, err error) {
	o, err := t.objects.Get(ctx, core.Secrets.Kind, l.Namespace, l.Secret)
	if err != nil {
		return nil, errInvalidated
	}
	s := core.Secrets.Cast(o)
	if s.DeletionTimestamp != nil || subtle.ConstantTimeCompare(s.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, errInvalidated
	}
	o, err = t.objects.Get(ctx, core.ServiceAccounts.Kind, l.Namespace, l.Account)
	if err != nil || string(o.GetUID()) != l.UID || o.GetDeletionTimestamp() != nil {
		return nil, errInvalidated
	}
	if s.Labels[InvalidSinceLabel] != "" {
		t.figures.refusedLegacy()
		return nil, errors.New("the token in secret " + l.Namespace + "/" + l.Secret + " for service account " + l.Namespace + "/" + l.Account + " has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '" + InvalidSinceLabel + "' label from the secret to temporarily allow use of this token")
	}
	for _, ref := range core.ServiceAccounts.Cast(o).Secrets {
		if ref.Name == s.Name {
			warnings = []string{"Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens."}
		}
	}
	if t.used != nil && s.Labels[LastUsedLabel] != t.now().UTC().Format(time.DateOnly) {
		t.used(ctx, s)
	}
	return warnings, nil
}
