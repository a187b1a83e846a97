// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bootstraptoken looks after the tokens with which machines join.
//
// NewSigning signs the ConfigMap kube-public/cluster-info, which anybody may read, with each token: a machine that has the
// token thereby knows that what it read is from its cluster. NewCleaning removes tokens that have expired.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/.
package bootstraptoken

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// The ConfigMap, what of it is signed, and what its signatures' keys start with; the token's ID follows.
const (
	infoName        = "cluster-info"
	signedKey       = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

// SigningNeeds are the rules of the signing loop's role.
func SigningNeeds() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps", "secrets"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{infoName}, Verbs: []string{"update"}},
	}
}

// CleaningNeeds are the rules of the cleaning loop's role.
func CleaningNeeds() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"delete", "get", "list", "watch"}}}
}

// NewSigning returns the loop that signs.
func NewSigning(c *client.Client) controller.Controller {
	s := signing{maps: client.Of(c, core.ConfigMaps), secrets: client.Of(c, core.Secrets), now: time.Now}
	return controller.Controller{
		Name: "bootstrapsigner", For: core.ConfigMaps.Kind, Needs: SigningNeeds(), Workers: 1, Reconcile: s.reconcile,
		Watches: []controller.Watch{{Kind: core.Secrets.Kind, Keys: func(obj, old resource.Object) []client.Key {
			if isToken(obj) || isToken(old) {
				return []client.Key{infoKey()}
			}
			return nil
		}}},
	}
}

func infoKey() client.Key { return client.Key{Namespace: metav1.NamespacePublic, Name: infoName} }

func isToken(o resource.Object) bool {
	return o != nil && o.GetNamespace() == metav1.NamespaceSystem && core.Secrets.Cast(o).Type == corev1.SecretTypeBootstrapToken
}

type signing struct {
	maps    client.Resource[corev1.ConfigMap]
	secrets client.Resource[corev1.Secret]
	now     func() time.Time
}

func (s signing) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	if key != infoKey() {
		return 0, nil
	}
	views, err := s.maps.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	secrets, err := s.secrets.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	info := views.Get(key)
	if info == nil || info.DeletionTimestamp != nil {
		return 0, nil
	}
	var tokens []*corev1.Secret
	for o := range secrets.All(metav1.NamespaceSystem) {
		if o.Type == corev1.SecretTypeBootstrapToken && o.DeletionTimestamp == nil {
			tokens = append(tokens, o)
		}
	}
	want, again, err := signed(info.Data, tokens, s.now())
	if err != nil || maps.Equal(want, info.Data) {
		return again, err
	}
	next := info.DeepCopy()
	next.Data = want
	_, err = s.maps.Update(ctx, next)
	return again, err
}

// signed returns data with the signatures of the tokens that sign, and those alone, and when the next token expires.
func signed(data map[string]string, tokens []*corev1.Secret, now time.Time) (map[string]string, time.Duration, error) {
	out, again := map[string]string{}, time.Duration(0)
	for key, value := range data {
		if !strings.HasPrefix(key, signaturePrefix) {
			out[key] = value
		}
	}
	for _, t := range tokens {
		id, secret := string(t.Data["token-id"]), t.Data["token-secret"]
		left, expires := remaining(t, now)
		if string(t.Data["usage-bootstrap-signing"]) != "true" || id == "" || len(secret) == 0 || expires && left <= 0 {
			continue
		}
		if expires && (again == 0 || left < again) {
			again = left
		}
		signature, err := detached([]byte(data[signedKey]), id, secret)
		if err != nil {
			return nil, 0, fmt.Errorf("sign %s with token %s: %w", infoName, id, err)
		}
		out[signaturePrefix+id] = signature
	}
	return out, again, nil
}

// detached is a JWS (RFC 7515) by HS256, without its payload. The secrets of tokens are shorter than libraries want keys to be.
func detached(payload []byte, id string, secret []byte) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "HS256", "kid": id})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s", encode(header), encode(payload))
	return encode(header) + ".." + encode(mac.Sum(nil)), nil
}

// remaining is how long a token still works; expires is false if it does for ever. What cannot be read is over.
func remaining(t *corev1.Secret, now time.Time) (left time.Duration, expires bool) {
	text := string(t.Data["expiration"])
	if text == "" {
		return 0, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, true
	}
	return at.Sub(now), true
}

// NewCleaning returns the loop that removes expired tokens.
func NewCleaning(c *client.Client) controller.Controller {
	r := cleaning{secrets: client.Of(c, core.Secrets), now: time.Now}
	return controller.Controller{Name: "tokencleaner", For: core.Secrets.Kind, Needs: CleaningNeeds(), Workers: 1, Reconcile: r.reconcile}
}

type cleaning struct {
	secrets client.Resource[corev1.Secret]
	now     func() time.Time
}

func (c cleaning) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	if key.Namespace != metav1.NamespaceSystem {
		return 0, nil
	}
	view, err := c.secrets.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	t := view.Get(key)
	if t == nil || t.Type != corev1.SecretTypeBootstrapToken || t.DeletionTimestamp != nil {
		return 0, nil
	}
	left, expires := remaining(t, c.now())
	if !expires || left > 0 {
		return left, nil
	}
	uid := t.UID
	err = c.secrets.Delete(ctx, key, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return 0, err
}
