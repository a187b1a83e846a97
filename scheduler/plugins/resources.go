// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/scheduler/snapshot"
)

// nodeResourcesFit keeps pods off nodes without room for their requests, and prefers nodes with much room.
func nodeResourcesFit(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	want, known := &pod.Requests, map[short]Verdict{}
	return Rule{
		Filter: func(n *snapshot.Node) Verdict {
			full := int64(len(n.Pods)) >= n.MaxPods
			if !full && fits(want, n) {
				return Verdict{}
			}
			if len(want.Others) > 0 {
				return shortage(want, n, full)
			}
			s := shortOf(want, n, full)
			v, is := known[s]
			if !is {
				v = shortage(want, n, full)
				known[s] = v
			}
			return v
		},
		Score: func(n *snapshot.Node) int64 {
			return (free(n.Allocatable.CPU, n.NonZero.CPU+pod.NonZero.CPU) + free(n.Allocatable.Memory, n.NonZero.Memory+pod.NonZero.Memory)) / 2
		},
	}
}

// short says what a node has too little of, now or for ever.
type short struct{ pods, cpu, memory, ephemeral, final bool }

func shortOf(want *snapshot.Resources, n *snapshot.Node, full bool) short {
	have, used := &n.Allocatable, &n.Requested
	return short{
		pods: full, cpu: want.CPU > 0 && want.CPU > have.CPU-used.CPU, memory: want.Memory > 0 && want.Memory > have.Memory-used.Memory,
		ephemeral: want.Ephemeral > 0 && want.Ephemeral > have.Ephemeral-used.Ephemeral,
		final:     want.CPU > have.CPU || want.Memory > have.Memory || want.Ephemeral > have.Ephemeral,
	}
}

func fits(want *snapshot.Resources, n *snapshot.Node) bool {
	have, used := &n.Allocatable, &n.Requested
	short := want.CPU > 0 && want.CPU > have.CPU-used.CPU || want.Memory > 0 && want.Memory > have.Memory-used.Memory ||
		want.Ephemeral > 0 && want.Ephemeral > have.Ephemeral-used.Ephemeral
	if short {
		return false
	}
	for name, v := range want.Others {
		if v > 0 && v > have.Others[name]-used.Others[name] {
			return false
		}
	}
	return true
}

// shortage says what the node has too little of.
func shortage(want *snapshot.Resources, n *snapshot.Node, full bool) (v Verdict) {
	if full {
		v.Reasons = append(v.Reasons, "Too many pods")
	}
	names := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	for _, name := range append(names, slices.Sorted(maps.Keys(want.Others))...) {
		amount, have := want.Get(name), n.Allocatable.Get(name)
		if amount > 0 && amount > have-n.Requested.Get(name) {
			v.Reasons = append(v.Reasons, "Insufficient "+string(name))
			v.Final = v.Final || amount > have
		}
	}
	return v
}

// free is the part of an amount that is left, as a score.
func free(have, used int64) int64 {
	if have <= 0 || used >= have {
		return 0
	}
	return (have - used) * MaxScore / have
}

// balancedAllocation prefers nodes whose CPU and memory would be used to the same part.
func balancedAllocation(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	want := &pod.Requests
	if want.CPU == 0 && want.Memory == 0 {
		return Rule{}
	}
	return Rule{Score: func(n *snapshot.Node) int64 {
		cpu := part(n.Requested.CPU+want.CPU, n.Allocatable.CPU)
		memory := part(n.Requested.Memory+want.Memory, n.Allocatable.Memory)
		return int64((1 - math.Abs(cpu-memory)/2) * MaxScore)
	}}
}

func part(used, have int64) float64 {
	if have <= 0 {
		return 0
	}
	return min(1, float64(used)/float64(have))
}

// imageLocality prefers nodes that have the pod's images, in proportion to their size and to how spread they are.
func imageLocality(pod *snapshot.Pod, s *snapshot.Snapshot) Rule {
	const least, most = 23 << 20, 1000 << 20
	spread := map[string]int64{}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			name := list[i].Image
			if !strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
				name += ":latest"
			}
			if count := s.ImageNodes(name); count > 0 {
				spread[name] = int64(count)
			}
		}
	}
	if len(spread) == 0 {
		return Rule{}
	}
	highest := int64(most * (len(pod.Spec.Containers) + len(pod.Spec.InitContainers)))
	return Rule{Score: func(n *snapshot.Node) int64 {
		sum := int64(0)
		for name, count := range spread {
			sum += n.Images[name] * count / int64(len(s.Nodes))
		}
		sum = max(least, min(sum, highest))
		return MaxScore * (sum - least) / (highest - least)
	}}
}
