// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/client"
	"knarr.dev/cluster/clustertest"
)

// TestCustomResourcesAreCollected makes custom objects that own others, and lets owner and namespace go.
func TestCustomResourcesAreCollected(t *testing.T) {
	c := clustertest.New(t, clustertest.WithoutSockets())
	ns := c.Namespace(t)
	clustertest.Create(t, c, extension.CustomResourceDefinitions, "", `{metadata: {name: boxes.example.com}, spec: {group: example.com, scope: Namespaced,
		names: {plural: boxes, kind: Box}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`)
	var box = extension.CustomResourceDefinitions.Kind
	clustertest.Wait(t, c, extension.CustomResourceDefinitions, client.Key{Name: "boxes.example.com"}, func(d *apiextensionsv1.CustomResourceDefinition) bool {
		if d == nil || len(extension.Kinds(d)) == 0 {
			return false
		}
		box = extension.Kinds(d)[0]
		return true
	})
	do := func(q *call.Request) (*call.Result, error) {
		q.Kind, q.Namespace = box, ns
		return c.Client().Transport().Do(t.Context(), q)
	}
	create := func(name string) *call.Result {
		t.Helper()
		for { // until the server serves what it accepted
			o := box.New().(*unstructured.Unstructured)
			o.SetName(name)
			o.SetNamespace(ns)
			res, err := do(&call.Request{Verb: "create", Object: o})
			if err == nil {
				return res
			}
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
		}
	}
	owner := create("a").Object
	clustertest.Create(t, c, core.ConfigMaps, ns, `{metadata: {name: owned, ownerReferences: [{apiVersion: example.com/v1, kind: Box, name: a, uid: `+string(owner.GetUID())+`}]}}`)
	create("b")
	background := metav1.DeletePropagationBackground
	if _, err := do(&call.Request{Verb: "delete", Name: "a", Delete: &metav1.DeleteOptions{PropagationPolicy: &background}}); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, c, core.ConfigMaps, client.Key{Namespace: ns, Name: "owned"}, func(m *corev1.ConfigMap) bool { return m == nil })
	if err := client.Of(c.Client(), core.Namespaces).Delete(t.Context(), client.Key{Name: ns}, nil); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, c, core.Namespaces, client.Key{Name: ns}, func(n *corev1.Namespace) bool { return n == nil })
	if list, err := do(&call.Request{Verb: "list"}); err != nil || len(list.List.Items) > 0 {
		t.Errorf("left in the namespace: %v, %v", list, err)
	}
}
