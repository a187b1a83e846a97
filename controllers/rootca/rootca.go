// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rootca publishes the certificate authority of the API server in every namespace, as ConfigMap
// kube-root-ca.crt, from where pods mount it.
package rootca

import (
	"context"
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

// name of the ConfigMap in each namespace.
const name = "kube-root-ca.crt"

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "get", "list", "update", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop; ca is in PEM form.
func New(c *client.Client, ca []byte) controller.Controller {
	r := reconciler{namespaces: client.Of(c, core.Namespaces), maps: client.Of(c, core.ConfigMaps), ca: string(ca)}
	return controller.Controller{
		Name: "root-ca-cert-publisher", For: core.Namespaces.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{{Kind: core.ConfigMaps.Kind, Keys: func(obj, old resource.Object) []client.Key {
			if obj == nil {
				obj = old
			}
			if obj.GetName() != name {
				return nil
			}
			return []client.Key{{Name: obj.GetNamespace()}}
		}}},
	}
}

type reconciler struct {
	namespaces client.Resource[corev1.Namespace]
	maps       client.Resource[corev1.ConfigMap]
	ca         string
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	namespaces, err := r.namespaces.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	ns := namespaces.Get(key)
	if ns == nil || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	views, err := r.maps.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	want := map[string]string{"ca.crt": r.ca}
	have := views.Get(client.Key{Namespace: key.Name, Name: name})
	switch {
	case have == nil:
		_, err = r.maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: name, Annotations: map[string]string{
				"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
					"No other usage is guaranteed across distributions of Kubernetes clusters.",
			}},
			Data: want,
		})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsAlreadyExists(err) {
			err = nil
		}
	case !maps.Equal(have.Data, want):
		next := have.DeepCopy()
		next.Data = want
		_, err = r.maps.Update(ctx, next)
	}
	return 0, err
}
