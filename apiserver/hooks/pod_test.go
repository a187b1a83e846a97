// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRefusedBindings has what Kubernetes says of bindings that cannot be.
func TestRefusedBindings(t *testing.T) {
	free := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u", ResourceVersion: "7"}}
	bound, gated, gone := free, free, free
	bound.Spec.NodeName = "n1"
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a/b"}}
	gone.DeletionTimestamp = &metav1.Time{}
	const other = "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: /pods/d/p, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
	for _, c := range []struct {
		pod  corev1.Pod
		meta metav1.ObjectMeta
		want string
	}{
		{bound, metav1.ObjectMeta{}, `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"`},
		{gated, metav1.ObjectMeta{}, `Operation cannot be fulfilled on pods/binding "p": pod p has non-empty .spec.schedulingGates`},
		{gone, metav1.ObjectMeta{}, `Operation cannot be fulfilled on pods/binding "p": pod p is being deleted, cannot be assigned to a host`},
		{free, metav1.ObjectMeta{UID: "z"}, other + "UID in precondition: z, UID in object meta: u"},
		{free, metav1.ObjectMeta{ResourceVersion: "1"}, other + "ResourceVersion in precondition: 1, ResourceVersion in object meta: 7"},
	} {
		b := &corev1.Binding{ObjectMeta: c.meta, Target: corev1.ObjectReference{Name: "n2"}}
		if err := bind("/pods/d/p", &c.pod, b); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
