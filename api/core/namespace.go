// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Namespaces divides the names of a cluster.
var Namespaces = resource.WithList(resource.Define(resource.Definition[corev1.Namespace]{
	Group: "", Version: "v1", Kind: "Namespace", Resource: "namespaces",
	ShortNames: []string{"ns"},
	Scope:      resource.Cluster,
	Name:       apivalidation.ValidateNamespaceName,
	Default: func(n *corev1.Namespace) {
		if n.Name == "" {
			return
		}
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	},
	PrepareCreate: func(n *corev1.Namespace) {
		n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
			n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	},
	PrepareUpdate: func(n, old *corev1.Namespace) {
		n.Spec.Finalizers = old.Spec.Finalizers
		n.Status = old.Status
	},
	Columns: []resource.Column[corev1.Namespace]{
		{Name: "Status", Value: func(n *corev1.Namespace, _ time.Time) any { return string(n.Status.Phase) }},
	},
	Fields:     func(n *corev1.Namespace) fields.Set { return fields.Set{"status.phase": string(n.Status.Phase)} },
	FieldNames: []string{"status.phase"},
	Verbs:      []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	Subresources: resource.Subresources[corev1.Namespace]{
		Status: &resource.Status[corev1.Namespace]{Prepare: func(obj, old *corev1.Namespace) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}},
		Others: []resource.Subresource{{Name: "finalize", Kind: coreKind("Namespace"), Verbs: []string{"update"}}},
	},
	DefaultPropagation: metav1.DeletePropagationBackground,
}), func() runtime.Object { return new(corev1.NamespaceList) })
