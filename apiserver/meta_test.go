// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/resource"
)

// TestShallow checks that marking a copy as deleted leaves the original as it was.
func TestShallow(t *testing.T) {
	for _, stored := range []resource.Object{
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Finalizers: []string{"a"}}, Spec: corev1.PodSpec{NodeName: "n"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		&apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Status: apiextensionsv1.CustomResourceDefinitionStatus{
			Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{{Type: "Established", Status: "True"}},
		}},
		&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "u"}}},
	} {
		before, copied := stored.DeepCopyObject(), shallow(stored)
		if !reflect.DeepEqual(before, copied) {
			t.Errorf("%T: copied as %v", stored, copied)
		}
		now, grace := metav1.Now(), int64(0)
		copied.SetDeletionTimestamp(&now)
		copied.SetDeletionGracePeriodSeconds(&grace)
		copied.SetFinalizers([]string{"b"})
		copied.SetResourceVersion("7")
		terminate(copied)
		if !reflect.DeepEqual(before, stored) {
			t.Errorf("%T: the original became %v", stored, stored)
		}
	}
}
