// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package accounttoken fills Secrets of type kubernetes.io/service-account-token with the token of the service account that they
// name, removes those whose account is gone, and cleans up what was made automatically and nobody uses.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/. Tokens without end are an old habit: new
// ones come from the TokenRequest API, which needs no loop.
package accounttoken

import (
	"bytes"
	"context"
	"fmt"
	"maps"
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

// Signer makes the token of a Secret.
type Signer interface {
	SignLegacy(namespace, account, uid, secret string) (string, error)
}

// Needs are the rules of the loop. It acts as the controller manager, whose role has them.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list", "watch", "update", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop. ca is the certificate authority of the API server in PEM form; without a signer it only removes.
func New(c *client.Client, signer Signer, ca []byte) controller.Controller {
	r := reconciler{accounts: client.Of(c, core.ServiceAccounts), secrets: client.Of(c, core.Secrets), signer: signer, ca: ca}
	return controller.Controller{
		Name: "serviceaccount-token", For: core.ServiceAccounts.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{{Kind: core.Secrets.Kind, Keys: func(obj, _ resource.Object) []client.Key {
			if obj == nil {
				return nil
			}
			if account := accountOf(core.Secrets.Cast(obj)); account != "" {
				return []client.Key{{Namespace: obj.GetNamespace(), Name: account}}
			}
			return nil
		}}},
	}
}

// accountOf is the service account that a Secret is for, or empty.
func accountOf(s *corev1.Secret) string {
	if s.Type != corev1.SecretTypeServiceAccountToken {
		return ""
	}
	return s.Annotations[corev1.ServiceAccountNameKey]
}

type reconciler struct {
	accounts client.Resource[corev1.ServiceAccount]
	secrets  client.Resource[corev1.Secret]
	signer   Signer
	ca       []byte
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	view, err := r.secrets.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	var mine []*corev1.Secret
	for s := range view.All(key.Namespace) {
		if accountOf(s) == key.Name {
			mine = append(mine, s)
		}
	}
	if len(mine) == 0 {
		return 0, nil
	}
	account, err := r.accounts.Get(ctx, key) // the present one: a Secret may have come just after it
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if apierrors.IsNotFound(err) {
		account = nil
	}
	for _, s := range mine {
		if err := r.secret(ctx, account, s); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (r reconciler) secret(ctx context.Context, account *corev1.ServiceAccount, s *corev1.Secret) error {
	p := plan(account, s, r.ca)
	switch {
	case p.remove:
		err := r.secrets.Delete(ctx, client.KeyOf(s), &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	case !p.fill && !p.token || r.signer == nil:
		return nil
	}
	changed := s.DeepCopy()
	if changed.Annotations == nil {
		changed.Annotations = map[string]string{}
	}
	changed.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	changed.Data = maps.Clone(s.Data)
	if changed.Data == nil {
		changed.Data = map[string][]byte{}
	}
	changed.Data[corev1.ServiceAccountRootCAKey] = r.ca
	changed.Data[corev1.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	if p.token {
		token, err := r.signer.SignLegacy(s.Namespace, account.Name, string(account.UID), s.Name)
		if err != nil {
			return fmt.Errorf("token of secret %s: %w", client.KeyOf(s), err)
		}
		changed.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	_, err := r.secrets.Update(ctx, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// steps is what is to be done about one Secret.
type steps struct{ remove, fill, token bool }

// plan decides about a Secret; account is nil if there is none.
func plan(account *corev1.ServiceAccount, s *corev1.Secret, ca []byte) steps {
	if s.DeletionTimestamp != nil {
		return steps{}
	}
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	if account == nil || uid != "" && uid != string(account.UID) {
		return steps{remove: true}
	}
	if account.DeletionTimestamp != nil {
		return steps{}
	}
	return steps{
		token: len(s.Data[corev1.ServiceAccountTokenKey]) == 0,
		fill: uid == "" || !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], ca) ||
			string(s.Data[corev1.ServiceAccountNamespaceKey]) != s.Namespace,
	}
}
