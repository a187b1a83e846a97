// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"encoding/json"
	"math/rand"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	kinds "knarr.dev/api/resource"
)

func TestCompare(t *testing.T) {
	c := kinds.NewComparer(reflect.TypeFor[corev1.Pod]())
	base := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"a": "b"}, CreationTimestamp: metav1.Unix(1, 0)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
			StartupProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}},
		}}},
	}
	for name, row := range map[string]struct {
		change func(*corev1.Pod)
		want   kinds.Verdict
	}{
		"none":       {func(*corev1.Pod) {}, kinds.Same},
		"name":       {func(p *corev1.Pod) { p.Name = "b" }, kinds.Differ},
		"no labels":  {func(p *corev1.Pod) { p.Labels = nil }, kinds.Differ},
		"label":      {func(p *corev1.Pod) { p.Labels = map[string]string{"a": "c"} }, kinds.Differ},
		"empty map":  {func(p *corev1.Pod) { p.Annotations = map[string]string{} }, kinds.Unsure},
		"empty list": {func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{} }, kinds.Unsure},
		"pointer":    {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{} }, kinds.Differ},
		"spelling":   {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("1000m") }, kinds.Same},
		"quantity":   {func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests["cpu"] = resource.MustParse("2") }, kinds.Differ},
		"port":       {func(p *corev1.Pod) { p.Spec.Containers[0].StartupProbe.TCPSocket.Port.IntVal = 2 }, kinds.Unsure},
		"zone":       {func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Unix(1, 0).In(time.FixedZone("x", 60))) }, kinds.Unsure},
		"time":       {func(p *corev1.Pod) { p.CreationTimestamp = metav1.Unix(2, 0) }, kinds.Differ},
		"type":       {func(p *corev1.Pod) { p.Kind = "Pod" }, kinds.Unsure},
	} {
		other := base.DeepCopy()
		row.change(other)
		if got := kinds.Compare(c, base, other); got != row.want {
			t.Errorf("%s: %d, want %d", name, got, row.want)
		}
	}
}

// Of random pods, what is the same or differs in memory is and does in every encoding and by reflection.
func TestCompareTellsTheTruth(t *testing.T) {
	c := kinds.NewComparer(reflect.TypeFor[corev1.Pod]())
	random := rand.New(rand.NewSource(1))
	filler := randfill.New().RandSource(random).NilChance(0.3).NumElements(0, 2).Funcs(
		func(q *resource.Quantity, _ randfill.Continue) {
			*q = resource.MustParse([]string{"1", "1000m", "2", "1Gi"}[random.Intn(4)])
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) {},
		func(v *metav1.Time, _ randfill.Continue) { *v = metav1.Unix(int64(random.Intn(3)), 0) },
	)
	counts := map[kinds.Verdict]int{}
	for range 300 {
		a := &corev1.Pod{}
		filler.Fill(a)
		a.TypeMeta = metav1.TypeMeta{}
		b := a.DeepCopy()
		if random.Intn(3) > 0 {
			part := []any{&b.ObjectMeta, &b.Spec, &b.Status, &b.Spec.Tolerations, &b.Spec.Containers}[random.Intn(5)]
			filler.Fill(part)
		}
		verdict := kinds.Compare(c, a, b)
		counts[verdict]++
		x, _ := a.Marshal()
		y, _ := b.Marshal()
		j, _ := json.Marshal(a)
		k, _ := json.Marshal(b)
		same := string(x) == string(y)
		if verdict == kinds.Same && (!same || string(j) != string(k)) || verdict == kinds.Differ && (same || equality.Semantic.DeepEqual(a, b)) {
			t.Fatalf("%d:\n%s\n%s", verdict, j, k)
		}
	}
	if counts[kinds.Same] == 0 || counts[kinds.Differ] == 0 {
		t.Errorf("verdicts %v", counts)
	}
}

func BenchmarkCompare(b *testing.B) {
	c := kinds.NewComparer(reflect.TypeFor[corev1.Pod]())
	x := &corev1.Pod{}
	randfill.NewWithSeed(1).NilChance(0.2).NumElements(2, 2).Funcs(func(f *metav1.FieldsV1, _ randfill.Continue) {}).Fill(x)
	y := x.DeepCopy()
	b.ReportAllocs()
	for b.Loop() {
		if kinds.Compare(c, x, y) != kinds.Same {
			b.Fatal("differ")
		}
	}
}
