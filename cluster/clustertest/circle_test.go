// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/clustertest"
)

// Objects that own each other in a circle, and block each other's deletion, go when one is deleted in the foreground.
func TestCircleOfOwnersIsCollected(t *testing.T) {
	c := clustertest.New(t, clustertest.WithoutSockets())
	ns := c.Namespace(t)
	maps := client.Of(c.Client(), core.ConfigMaps)
	names := []string{"a", "b", "c"}
	made := make([]*corev1.ConfigMap, len(names))
	for i, name := range names {
		made[i] = clustertest.Create(t, c, core.ConfigMaps, ns, `{metadata: {name: `+name+`}}`)
	}
	yes := true
	for i, m := range made {
		owner := made[(i+2)%len(made)]
		m = m.DeepCopy()
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &yes}}
		if _, err := maps.Update(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	foreground := metav1.DeletePropagationForeground
	if err := maps.Delete(t.Context(), client.KeyOf(made[0]), &metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	for _, m := range made {
		clustertest.Wait(t, c, core.ConfigMaps, client.KeyOf(m), func(m *corev1.ConfigMap) bool { return m == nil })
	}
}
