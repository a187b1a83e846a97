// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestSameSpec(t *testing.T) {
	base := corev1.PodSpec{
		NodeSelector: map[string]string{"a": "b", "c": "d"},
		Containers: []corev1.Container{{
			Name: "c", Image: "i",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
		}},
	}
	for name, change := range map[string]func(*corev1.PodSpec){
		"none":       func(*corev1.PodSpec) {},
		"empty list": func(s *corev1.PodSpec) { s.Volumes = []corev1.Volume{} },
		"quantity":   func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests["cpu"] = resource.MustParse("1000m") },
		"image":      func(s *corev1.PodSpec) { s.Containers[0].Image = "j" },
		"pointer":    func(s *corev1.PodSpec) { s.SecurityContext = &corev1.PodSecurityContext{} },
		"selector":   func(s *corev1.PodSpec) { s.NodeSelector["a"] = "x" },
	} {
		other := base.DeepCopy()
		change(other)
		if got, want := SamePodSpec(&base, other), equality.Semantic.DeepEqual(&base, other); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func BenchmarkSameSpec(b *testing.B) {
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "i"}}}
	other := spec.DeepCopy()
	b.ReportAllocs()
	for b.Loop() {
		if !SamePodSpec(&spec, other) {
			b.Fatal("differ")
		}
	}
}
