// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/fieldmanager"
)

func pod() *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Name: "web-1", Namespace: "default", Labels: map[string]string{"app": "web", "hash": "1"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
			Ports: []corev1.ContainerPort{{ContainerPort: 80}}, VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}},
			Volumes: []corev1.Volume{{Name: "v"}}}}
	core.Pods.Default(p)
	return p
}

func BenchmarkCreateConfigMap(b *testing.B) {
	m, err := fieldmanager.New(api.Kinds()).Of(core.ConfigMaps.Kind, "")
	if err != nil {
		b.Fatal(err)
	}
	payload := strings.Repeat("x", 1024)
	b.ReportAllocs()
	for b.Loop() {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"k": payload}}
		if err := m.Update(new(corev1.ConfigMap), obj, "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreatePod(b *testing.B) {
	m, err := fieldmanager.New(api.Kinds()).Of(core.Pods.Kind, "")
	if err != nil {
		b.Fatal(err)
	}
	obj := pod()
	b.ReportAllocs()
	for b.Loop() {
		obj.ManagedFields = nil
		if err := m.Update(new(corev1.Pod), obj, "bench"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPodStatus(b *testing.B) {
	f := fieldmanager.New(api.Kinds())
	live := pod()
	update := func(obj resource.Object, sub string) {
		m, err := f.Of(core.Pods.Kind, sub)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Update(live, obj, "bench"); err != nil {
			b.Fatal(err)
		}
	}
	empty := live
	live = new(corev1.Pod)
	update(empty, "")
	live = empty
	live.UID = "u"
	status := func(ready corev1.ConditionStatus) *corev1.Pod {
		p := live.DeepCopy()
		p.Status.Phase = "Running"
		p.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: ready, LastTransitionTime: metav1.NewTime(time.Unix(1, 0))}, {Type: "Initialized", Status: "True"}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "i", Ready: ready == "True"}}
		return p
	}
	first := status("False")
	update(first, "status")
	live = first
	b.ReportAllocs()
	for b.Loop() {
		update(status("True"), "status")
	}
}
