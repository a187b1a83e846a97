// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Namespaces divides the names of a cluster.
var Namespaces = resource.WithList(resource.Define(resource.Definition[corev1.Namespace]{
	Group: "", Version: "v1", Kind: "Namespace", Resource: "namespaces",
	ShortNames: []string{"ns"},
	Scope:      resource.Cluster,
	Name:       apivalidation.ValidateNamespaceName,
	Default: func(n *corev1.Namespace) {
		orDefault(&n.Status.Phase, corev1.NamespaceActive)
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
	Validate: func(n *corev1.Namespace) (problems field.ErrorList) {
		for _, f := range n.Spec.Finalizers {
			problems = append(problems, finalizerName(string(f), field.NewPath("spec", "finalizers"))...)
		}
		return problems
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
		}, Validate: func(obj, _ *corev1.Namespace) field.ErrorList {
			at := field.NewPath("status", "Phase")
			switch phase := obj.Status.Phase; {
			case obj.DeletionTimestamp.IsZero() && phase != corev1.NamespaceActive:
				return field.ErrorList{field.Invalid(at, phase, "may only be 'Active' if `deletionTimestamp` is empty")}
			case !obj.DeletionTimestamp.IsZero() && phase != corev1.NamespaceTerminating:
				return field.ErrorList{field.Invalid(at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
			}
			return nil
		}},
		Others: []resource.Subresource{{Name: "finalize", Kind: coreKind("Namespace"), Verbs: []string{"update"}}},
	},
	DefaultPropagation: metav1.DeletePropagationBackground,
}), func() runtime.Object { return new(corev1.NamespaceList) })

// FinalizerProblems checks the finalizers that a namespace shall keep.
func FinalizerProblems(n *corev1.Namespace) (problems field.ErrorList) {
	for i, f := range n.Spec.Finalizers {
		problems = append(problems, finalizerName(string(f), field.NewPath("spec", "finalizers").Index(i))...)
	}
	return problems
}

// finalizerName checks a finalizer: one of Kubernetes' own, or a name with a domain.
func finalizerName(name string, at *field.Path) (problems field.ErrorList) {
	for _, m := range validation.IsQualifiedName(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	if strings.Contains(name, "/") {
		return problems
	}
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	return append(problems, field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified"))
}
