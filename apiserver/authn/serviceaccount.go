// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
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
	errFuture      = errors.New("service account token is issued in the future")
	//lint:ignore ST1005 Kubernetes' words
	errWithdrawn = errors.New("Token has been invalidated")
	//lint:ignore ST1005 Kubernetes' words
	errOtherToken = errors.New("Token does not match server's copy")
)

// serviceAccount turns claims whose signature is good into an identity, if they still hold.
func (t *Tokens) serviceAccount(ctx context.Context, c *Claims, token string, audiences []string) (*Recognized, error) {
	own := []string(c.Audience)
	if len(own) == 0 {
		own = t.issuer.cfg.Audiences
	}
	wanted := audiences
	if len(wanted) == 0 {
		wanted = t.issuer.cfg.Audiences
	}
	common := intersect(wanted, own)
	if len(common) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", own, wanted)
	}
	if c.Legacy != nil {
		warnings, err := t.checkLegacy(ctx, c, token)
		if err != nil {
			return nil, err
		}
		return &Recognized{Identity: accountIdentity(c.Legacy.Namespace, c.Legacy.Account, c.Legacy.UID), Audiences: common, Warnings: warnings}, nil
	}
	b := c.Kubernetes
	if b == nil {
		b = &Bound{}
	}
	now := t.now()
	if err := checkTimes(&c.Claims, now); err != nil {
		return nil, err
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

// checkTimes leaves a minute for clocks that differ.
func checkTimes(c *jwt.Claims, now time.Time) error {
	switch err := c.ValidateWithLeeway(jwt.Expected{Time: now}, jwt.DefaultLeeway); {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return errExpired
	case errors.Is(err, jwt.ErrNotValidYet):
		return errNotYet
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errFuture
	default:
		return errors.New("service account token claims could not be validated due to unexpected condition")
	}
}

func accountIdentity(namespace, name, uid string) *call.Identity {
	return &call.Identity{
		Name: "system:serviceaccount:" + namespace + ":" + name, UID: uid,
		Groups: []string{GroupServiceAccounts, GroupServiceAccounts + ":" + namespace},
	}
}

// checkBound refuses tokens of accounts, pods, secrets and nodes that are gone or are not the same.
func (t *Tokens) checkBound(ctx context.Context, b *Bound, now time.Time) error {
	account, err := t.account(ctx, b.Namespace, b.Account.Name)
	if err != nil {
		return err
	}
	if ended(account, now) {
		return errInvalidated
	}
	if string(account.GetUID()) != b.Account.UID {
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", account.GetUID(), b.Account.UID)
	}
	if b.Secret != nil {
		if err := t.same(ctx, core.Secrets.Kind, b.Namespace, b.Secret, now); err != nil {
			return err
		}
	}
	if b.Pod != nil {
		if err := t.same(ctx, core.Pods.Kind, b.Namespace, b.Pod, now); err != nil {
			return err
		}
	}
	// The node of a pod is told, not checked: the pod's end is what counts.
	if b.Node != nil && b.Pod == nil {
		return t.same(ctx, core.Nodes.Kind, "", b.Node, now)
	}
	return nil
}

// account gets the service account that a token names; the errors are Kubernetes' for names that cannot be.
func (t *Tokens) account(ctx context.Context, namespace, name string) (resource.Object, error) {
	bad := path.IsValidPathSegmentName(name)
	switch {
	case name == "":
		return nil, errors.New("resource name may not be empty")
	case len(bad) > 0:
		return nil, fmt.Errorf("invalid resource name %q: %v", name, bad)
	case namespace == "":
		return nil, errors.New("the server could not find the requested resource")
	}
	o, err := t.objects.Get(ctx, core.ServiceAccounts.Kind, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("serviceaccounts %q not found", name)
	}
	if err != nil {
		return nil, fmt.Errorf("look up the service account of a token: %w", err)
	}
	return o, nil
}

func (t *Tokens) same(ctx context.Context, kind *resource.Kind, namespace string, ref *Reference, now time.Time) error {
	o, err := t.objects.Get(ctx, kind, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return errInvalidated
	}
	if err != nil {
		return fmt.Errorf("look up the %s of a token: %w", kind.Singular, err)
	}
	if ended(o, now) {
		return errInvalidated
	}
	if string(o.GetUID()) != ref.UID {
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", kind.Singular, o.GetUID(), kind.Singular, ref.UID)
	}
	return nil
}

func ended(o metav1.Object, now time.Time) bool {
	d := o.GetDeletionTimestamp()
	return d != nil && now.After(d.Add(deletionLeeway))
}

// missing tells which claim a token of a Secret lacks; "" is none.
func (l *Legacy) missing() string {
	switch "" {
	case l.Namespace:
		return "namespace"
	case l.Secret:
		return "secretName"
	case l.Account:
		return "serviceAccountName"
	case l.UID:
		return "serviceAccountUID"
	}
	return ""
}

// checkLegacy checks a token that lives in a Secret, and tells that it was used. What it says about its own end does not count.
func (t *Tokens) checkLegacy(ctx context.Context, c *Claims, token string) (warnings []string, err error) {
	l := c.Legacy
	if claim := l.missing(); claim != "" {
		return nil, errors.New(claim + " claim is missing")
	}
	if c.Subject != subjectOf(l.Namespace, l.Account) {
		return nil, errors.New("sub claim is invalid")
	}
	o, err := t.objects.Get(ctx, core.Secrets.Kind, l.Namespace, l.Secret)
	if err != nil {
		return nil, errWithdrawn
	}
	s := core.Secrets.Cast(o)
	if s.DeletionTimestamp != nil {
		return nil, errWithdrawn
	}
	if subtle.ConstantTimeCompare(s.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, errOtherToken
	}
	account, err := t.account(ctx, l.Namespace, l.Account)
	if err != nil {
		return nil, err
	}
	if account.GetDeletionTimestamp() != nil {
		return nil, fmt.Errorf("ServiceAccount %s/%s has been deleted", l.Namespace, l.Account)
	}
	if string(account.GetUID()) != l.UID {
		return nil, fmt.Errorf("ServiceAccount UID (%s) does not match claim (%s)", account.GetUID(), l.UID)
	}
	if t.used != nil && s.Labels[LastUsedLabel] != t.now().UTC().Format(time.DateOnly) {
		t.used(ctx, s)
	}
	if s.Labels[InvalidSinceLabel] != "" {
		t.figures.refusedLegacy()
		return nil, errors.New("the token in secret " + l.Namespace + "/" + l.Secret + " for service account " + l.Namespace + "/" + l.Account + " has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '" + InvalidSinceLabel + "' label from the secret to temporarily allow use of this token")
	}
	for _, ref := range core.ServiceAccounts.Cast(account).Secrets {
		if ref.Name == s.Name {
			warnings = []string{"Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens."}
		}
	}
	return warnings, nil
}
