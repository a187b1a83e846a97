// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

func TestMergeTolerations(t *testing.T) {
	exists := func(key string, effect corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
	}
	a, b := exists("a", ""), exists("b", corev1.TaintEffectNoSchedule)
	value := corev1.Toleration{Key: "a", Operator: corev1.TolerationOpEqual, Value: "v"}
	all := exists("", "")
	for _, c := range []struct {
		name      string
		all, want []corev1.Toleration
	}{
		{"different", []corev1.Toleration{a, b}, []corev1.Toleration{a, b}},
		{"the same twice", []corev1.Toleration{a, b, a}, []corev1.Toleration{a, b}},
		{"covered by a later one", []corev1.Toleration{value, b, a}, []corev1.Toleration{b, a}},
		{"covered by an earlier one", []corev1.Toleration{a, exists("a", corev1.TaintEffectNoExecute)}, []corev1.Toleration{a}},
		{"everything", []corev1.Toleration{a, b, all}, []corev1.Toleration{all}},
	} {
		if got := mergeTolerations(c.all); !equality.Semantic.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
