// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package serviceaccount makes sure that every namespace has the service account "default".
package serviceaccount

import (
	"context"
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

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"create", "get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := reconciler{namespaces: client.Of(c, core.Namespaces), accounts: client.Of(c, core.ServiceAccounts)}
	return controller.Controller{
		Name: "service-account", For: core.Namespaces.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{{Kind: core.ServiceAccounts.Kind, Keys: func(obj, old resource.Object) []client.Key {
			if obj != nil || old.GetName() != "default" {
				return nil
			}
			return []client.Key{{Name: old.GetNamespace()}}
		}}},
	}
}

type reconciler struct {
	namespaces client.Resource[corev1.Namespace]
	accounts   client.Resource[corev1.ServiceAccount]
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	namespaces, err := r.namespaces.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	accounts, err := r.accounts.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	ns := namespaces.Get(key)
	if ns == nil || ns.DeletionTimestamp != nil || accounts.Get(client.Key{Namespace: key.Name, Name: "default"}) != nil {
		return 0, nil
	}
	_, err = r.accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: "default"}})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil
	}
	return 0, err
}
