// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/resource"
)

// objectMeta is the metadata of any object, shared with it.
func objectMeta(o resource.Object) metav1.ObjectMeta {
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if m, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return *m
		}
	}
	return metav1.ObjectMeta{
		Name: o.GetName(), GenerateName: o.GetGenerateName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
		ResourceVersion: o.GetResourceVersion(), Generation: o.GetGeneration(), CreationTimestamp: o.GetCreationTimestamp(),
		DeletionTimestamp: o.GetDeletionTimestamp(), DeletionGracePeriodSeconds: o.GetDeletionGracePeriodSeconds(),
		Labels: o.GetLabels(), Annotations: o.GetAnnotations(), OwnerReferences: o.GetOwnerReferences(),
		Finalizers: o.GetFinalizers(), ManagedFields: o.GetManagedFields(),
	}
}

// setObjectMeta gives an object the metadata m, which it shares from then on.
func setObjectMeta(o resource.Object, m *metav1.ObjectMeta) {
	if a, ok := o.(metav1.ObjectMetaAccessor); ok {
		if have, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			*have = *m
			return
		}
	}
	o.SetUID(m.UID)
	o.SetResourceVersion(m.ResourceVersion)
	o.SetGeneration(m.Generation)
	o.SetCreationTimestamp(m.CreationTimestamp)
	o.SetDeletionTimestamp(m.DeletionTimestamp)
	o.SetDeletionGracePeriodSeconds(m.DeletionGracePeriodSeconds)
	o.SetLabels(m.Labels)
	o.SetAnnotations(m.Annotations)
	o.SetOwnerReferences(m.OwnerReferences)
	o.SetFinalizers(m.Finalizers)
	o.SetManagedFields(m.ManagedFields)
}

// shallow copies an object of which fields of the metadata will be set, and nothing else changed: what they and the others refer to is
// shared by both.
func shallow(o resource.Object) resource.Object {
	switch o.(type) {
	case *unstructured.Unstructured, *apiextensionsv1.CustomResourceDefinition: // whose conditions change too
		return o.DeepCopyObject().(resource.Object)
	}
	v := reflect.ValueOf(o).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	return c.Interface().(resource.Object)
}
