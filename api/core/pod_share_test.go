// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// TestSharedPodsAreEqual shares pods that differ in one thing at a time, and compares them with what they were.
func TestSharedPodsAreEqual(t *testing.T) {
	base := func() *corev1.Pod {
		p := &corev1.Pod{}
		p.Labels = map[string]string{"a": "b"}
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k"}, {Key: "l"}}
		p.Spec.Affinity = &corev1.Affinity{}
		p.Spec.Containers = []corev1.Container{{
			Name: "c", Image: "i", Env: []corev1.EnvVar{{Name: "n", Value: "v"}},
			LivenessProbe: &corev1.Probe{PeriodSeconds: 3},
			Resources: corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{"cpu": apiresource.MustParse("1"), "memory": apiresource.MustParse("1Gi")},
				Requests: corev1.ResourceList{"cpu": apiresource.MustParse("1000m")},
			},
		}}
		return p
	}
	s := &resource.Shared{}
	for i, change := range []func(*corev1.Pod){
		func(*corev1.Pod) {}, func(*corev1.Pod) {},
		func(p *corev1.Pod) { p.Labels = map[string]string{"a": "c"} },
		func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b", "c": ""} },
		func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "kl"}} },
		func(p *corev1.Pod) { p.Spec.Tolerations = nil },
		func(p *corev1.Pod) { p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "n"}, {Name: "v"}} },
		func(p *corev1.Pod) { p.Spec.Containers[0].LivenessProbe.PeriodSeconds = 4 },
		func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 3} },
		func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits["cpu"] = apiresource.MustParse("2") },
		func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{} },
	} {
		p, want := base(), base()
		change(p)
		change(want)
		sharePod(p, s)
		if !equality.Semantic.DeepEqual(p, want) {
			t.Errorf("change %d: got %+v", i, p)
		}
	}
	a, b := base(), base()
	sharePod(a, s)
	sharePod(b, s)
	last := base()
	last.OwnerReferences = []metav1.OwnerReference{{Kind: string([]byte("Job"))}}
	last.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{MountPath: string([]byte("/a"))}}
	next, seen := *last, last.DeepCopy() // as updates of status make it
	sharePod(base(), s)
	sharePod(&next, s)
	if &next.OwnerReferences[0] == &last.OwnerReferences[0] || &next.Spec.Containers[0] == &last.Spec.Containers[0] ||
		&next.Spec.Containers[0].VolumeMounts[0] == &last.Spec.Containers[0].VolumeMounts[0] || !equality.Semantic.DeepEqual(last, seen) {
		t.Error("the last version, which others read, was written to")
	}
	if a.Spec.Containers[0].LivenessProbe != b.Spec.Containers[0].LivenessProbe {
		t.Error("equal pods do not share their probes")
	}
}
