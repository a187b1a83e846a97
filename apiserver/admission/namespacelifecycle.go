// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// namespaceLifecycle lets objects be created only in namespaces that exist and are not going, and protects those that the
// cluster cannot do without. It mutates nothing but acts first, as in Kubernetes.
func namespaceLifecycle(reader Reader) Step {
	return Step{Name: "NamespaceLifecycle", Mutate: func(ctx context.Context, r *Request) error {
		if r.Kind == core.Namespaces.Kind {
			return protectNamespace(r)
		}
		if r.Kind.Scope == resource.Cluster || r.Namespace == "" || r.Verb != "create" && r.Verb != "update" {
			return nil
		}
		if r.Kind.Group == "authorization.k8s.io" {
			return nil // a question, not an object
		}
		o, err := reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
		if err != nil {
			return err // not found, in the words that users know
		}
		if r.Verb != "create" || core.Namespaces.Cast(o).Status.Phase != corev1.NamespaceTerminating && o.GetDeletionTimestamp() == nil {
			return nil
		}
		refused := forbidden(r, fmt.Sprintf("unable to create new content in namespace %s because it is being terminated", r.Namespace))
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    corev1.NamespaceTerminatingCause,
			Message: fmt.Sprintf("namespace %s is being terminated", r.Namespace),
			Field:   "metadata.namespace",
		})
		return refused
	}}
}

func protectNamespace(r *Request) error {
	if r.Verb != "delete" {
		return nil
	}
	switch r.Name {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
		return forbidden(r, "this namespace may not be deleted")
	}
	return nil
}
