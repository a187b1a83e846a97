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
func nodeResourcesFit(pod *snapshot.Pod, _ []*snapshot.Node) Rule {
	names := slices.Sorted(maps.Keys(pod.Requests))
	return Rule{
		Filter: func(n *snapshot.Node) Verdict {
			var v Verdict
			if room, limited := n.Allocatable[corev1.ResourcePods]; limited && int64(len(n.Pods))+1 > room {
				v.Reasons = append(v.Reasons, "Too many pods")
			}
			for _, name := range names {
				want := pod.Requests[name]
				if want == 0 {
					continue
				}
				have := n.Allocatable[name]
				if want > have-n.Requested[name] {
					v.Reasons = append(v.Reasons, "Insufficient "+string(name))
					v.Final = v.Final || want > have
				}
			}
			return v
		},
		Score: func(n *snapshot.Node) int64 {
			total := int64(0)
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				have := n.Allocatable[name]
				if left := have - n.NonZero[name] - pod.NonZero[name]; have > 0 && left > 0 {
					total += left * MaxScore / have
				}
			}
			return total / 2
		},
	}
}

// balancedAllocation prefers nodes whose CPU and memory would be used to the same part.
func balancedAllocation(pod *snapshot.Pod, _ []*snapshot.Node) Rule {
	if len(pod.Requests) == 0 {
		return Rule{}
	}
	return Rule{Score: func(n *snapshot.Node) int64 {
		var parts [2]float64
		for i, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if have := n.Allocatable[name]; have > 0 {
				parts[i] = min(1, float64(n.Requested[name]+pod.Requests[name])/float64(have))
			}
		}
		return int64((1 - math.Abs(parts[0]-parts[1])/2) * MaxScore)
	}}
}

// imageLocality prefers nodes that have the pod's images, in proportion to their size and to how spread they are.
func imageLocality(pod *snapshot.Pod, nodes []*snapshot.Node) Rule {
	const least, most = 23 << 20, 1000 << 20
	have := map[string]int{}
	for _, n := range nodes {
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				have[name]++
			}
		}
	}
	if len(have) == 0 {
		return Rule{}
	}
	wanted := map[string]bool{}
	for _, c := range pod.Spec.Containers {
		name := c.Image
		if !strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") && !strings.Contains(name, "@") {
			name += ":latest"
		}
		wanted[name] = true
	}
	return Rule{Score: func(n *snapshot.Node) int64 {
		sum := int64(0)
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				if wanted[name] {
					sum += image.SizeBytes * int64(have[name]) / int64(len(nodes))
					break
				}
			}
		}
		highest := int64(most * len(pod.Spec.Containers))
		sum = max(least, min(sum, highest))
		return MaxScore * (sum - least) / (highest - least)
	}}
}
