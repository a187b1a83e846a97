// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"fmt"
	"math/rand"
	"reflect"
	"runtime"
	"testing"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/randfill"

	kinds "knarr.dev/api/resource"
)

// Packed objects equal what they were, whatever is in them and however many there are, and hold nothing that is collected.
func TestPackedObjectsAreEqual(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	filler := randfill.New().RandSource(random).NilChance(0.3).NumElements(0, 3).MaxDepth(12).Funcs(
		func(q *resource.Quantity, _ randfill.Continue) {
			*q = resource.MustParse([]string{"1", "1000m", "2", "1Gi", "0.123456789012345678901234567890"}[random.Intn(5)])
		},
		func(f *metav1.FieldsV1, c randfill.Continue) { *f = *metav1.NewFieldsV1(c.String(0)) },
		func(v *metav1.Time, _ randfill.Continue) { *v = metav1.Unix(int64(random.Intn(3)), 0) },
		func(j *apiextensionsv1.JSON, c randfill.Continue) { j.Raw = []byte(c.String(0)) },
		func(s *string, _ randfill.Continue) { *s = fmt.Sprint(random.Intn(50)) }, // so that some are equal
	)
	p := &kinds.Packer{}
	var all, want, made []kinds.Object
	for i := range 900 {
		o := []kinds.Object{&corev1.Pod{}, &corev1.ConfigMap{}, &corev1.Secret{}, &corev1.Node{}, &corev1.PersistentVolume{},
			&apiextensionsv1.CustomResourceDefinition{}}[i%6]
		filler.Fill(o)
		all, want = append(all, o), append(want, o.DeepCopyObject().(kinds.Object))
	}
	for i, o := range all {
		made = append(made, p.Pack(o))
		all[i] = nil
	}
	runtime.GC()
	for i, o := range made {
		if !reflect.DeepEqual(o, want[i]) {
			t.Fatalf("object %d: got %+v\nwant %+v", i, o, want[i])
		}
	}
}

func TestPackShares(t *testing.T) {
	pod := func(name string) *corev1.Pod {
		seconds := int64(30)
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"b": string([]byte("x")), "a": "y"}},
			Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &seconds, Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
				EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMedium([]byte("m"))},
			}}}},
		}
	}
	p := &kinds.Packer{}
	a, b := p.Pack(pod("a")).(*corev1.Pod), p.Pack(pod("b")).(*corev1.Pod)
	if a.Name != "a" || b.Name != "b" || !reflect.DeepEqual(a, pod("a")) {
		t.Errorf("packed pods are not what they were: %+v, %+v", a, b)
	}
	if a.Spec.TerminationGracePeriodSeconds != b.Spec.TerminationGracePeriodSeconds || &a.Spec.Volumes[0] != &b.Spec.Volumes[0] ||
		unsafe.StringData(a.Labels["b"]) != unsafe.StringData(b.Labels["b"]) ||
		reflect.ValueOf(a.Labels).UnsafePointer() != reflect.ValueOf(b.Labels).UnsafePointer() {
		t.Error("equal parts are in memory twice")
	}
	if c := p.Pack(pod("c")).(*corev1.Pod); &c.Spec.Volumes[0] == &pod("c").Spec.Volumes[0] {
		t.Error("the copy shares with its original")
	}
	o := &unstructured.Unstructured{Object: map[string]any{"a": "b"}}
	if got := p.Pack(o); !reflect.DeepEqual(got, o) {
		t.Errorf("an unstructured object became %+v", got)
	}
}

func BenchmarkPack(b *testing.B) {
	filler := randfill.New().RandSource(rand.New(rand.NewSource(1))).NilChance(0.7).NumElements(0, 3).Funcs(
		func(q *resource.Quantity, _ randfill.Continue) { *q = resource.MustParse("1") },
		func(f *metav1.FieldsV1, _ randfill.Continue) {},
	)
	pods := make([]*corev1.Pod, 100)
	for i := range pods {
		pods[i] = &corev1.Pod{}
		filler.Fill(pods[i])
	}
	p := &kinds.Packer{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.Pack(pods[i%len(pods)])
	}
}
