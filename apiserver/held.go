// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/resource"
)

// held says that an object stays though it is marked as deleted and has no finalizers of metadata: a namespace stays
// until its content is gone, which spec.finalizers say.
func held(obj resource.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// terminate shows in a namespace's status that it is being deleted.
func terminate(obj resource.Object) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
}
