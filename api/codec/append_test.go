// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package codec_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/codec"
)

func TestAppendJSON(t *testing.T) {
	core := func(kind string) schema.GroupVersionKind { return schema.GroupVersionKind{Version: "v1", Kind: kind} }
	for _, c := range []struct {
		gvk schema.GroupVersionKind
		obj any
	}{
		{core("Pod"), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}},
		{core("ConfigMap"), &corev1.ConfigMap{Data: map[string]string{"a": "<b>"}}},
		{core("ConfigMap"), &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}}},
		{core("Nothing"), &struct{}{}},
		{schema.GroupVersionKind{Group: "g", Version: "v1", Kind: "K"}, &unstructured.Unstructured{Object: map[string]any{"apiVersion": "g/v1", "kind": "K", "a": "b"}}},
	} {
		want, err := codec.EncodeJSON(c.gvk, c.obj)
		if err != nil {
			t.Fatal(err)
		}
		got, err := codec.AppendJSON([]byte("before "), c.gvk, c.obj)
		if string(got) != "before "+string(want) || err != nil {
			t.Errorf("%T: %s, %v; EncodeJSON: %s", c.obj, got, err, want)
		}
	}
	if _, err := codec.AppendJSON(nil, core("Bad"), make(chan int)); err == nil {
		t.Error("no error about a channel")
	}
}
