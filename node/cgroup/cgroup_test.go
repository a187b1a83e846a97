// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(text string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, word := range strings.Fields(text) {
		name, quantity, _ := strings.Cut(word, "=")
		l[corev1.ResourceName(name)] = resource.MustParse(quantity)
	}
	return l
}

func TestPods(t *testing.T) {
	for _, c := range []struct {
		requests, limits [2]string // of two containers
		qos              corev1.PodQOSClass
		path             string
		want             Limits
	}{
		{qos: corev1.PodQOSBestEffort, path: "/kubepods/besteffort/podu", want: Limits{CPUShares: 2}},
		{
			[2]string{"cpu=1 memory=1Mi", "cpu=500m memory=1Mi"}, [2]string{"cpu=1 memory=1Mi", "cpu=500m memory=1Mi"},
			corev1.PodQOSGuaranteed, "/kubepods/podu", Limits{CPUShares: 1536, CPUQuota: 150000, Memory: 2 << 20},
		},
		{
			[2]string{"cpu=1", ""}, [2]string{"cpu=2", "memory=1Mi"},
			corev1.PodQOSBurstable, "/kubepods/burstable/podu", Limits{CPUShares: 1024},
		},
	} {
		p := &corev1.Pod{}
		for i := range 2 {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
				Resources: corev1.ResourceRequirements{Requests: list(c.requests[i]), Limits: list(c.limits[i])},
			})
		}
		qos := QOS(p)
		if qos != c.qos || Path(qos, "u") != c.path || PodLimits(p) != c.want {
			t.Errorf("%v: %s %s %+v, want %s %s %+v", c.requests, qos, Path(qos, "u"), PodLimits(p), c.qos, c.path, c.want)
		}
	}
}

// The files of both versions, in a directory that stands for the mounted tree.
func TestFiles(t *testing.T) {
	limits := Limits{CPUShares: 1024, CPUQuota: 50000, Memory: 1 << 20}
	for _, c := range []struct {
		unified bool
		want    map[string]string
	}{
		{true, map[string]string{"a/b/cpu.weight": "39", "a/b/cpu.max": "50000 100000", "a/b/memory.max": "1048576"}},
		{false, map[string]string{"cpu/a/b/cpu.shares": "1024", "cpu/a/b/cpu.cfs_quota_us": "50000", "memory/a/b/memory.limit_in_bytes": "1048576"}},
	} {
		tree := &Tree{t.TempDir(), c.unified}
		for _, controller := range []string{"cpu", "memory"} {
			if err := os.MkdirAll(filepath.Join(tree.root, controller), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.Apply("/a/b", limits); err != nil {
			t.Fatal(err)
		}
		for name, want := range c.want {
			if raw, err := os.ReadFile(filepath.Join(tree.root, name)); err != nil || string(raw) != want {
				t.Errorf("%s: %q %v, want %q", name, raw, err, want)
			}
		}
	}
}
