// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/crd"
)

// held says that an object stays though it is marked as deleted and has no finalizers of metadata: a namespace stays
// until its content is gone, which spec.finalizers say.
func held(obj resource.Object) bool {
	ns, ok := obj.(*corev1.Namespace)
	return ok && len(ns.Spec.Finalizers) > 0
}

// terminate shows in the status of namespaces and definitions that they are being deleted.
func terminate(obj resource.Object) {
	switch obj := obj.(type) {
	case *corev1.Namespace:
		obj.Status.Phase = corev1.NamespaceTerminating
	case *apiextensionsv1.CustomResourceDefinition:
		crd.Terminate(obj, time.Now())
	}
}
