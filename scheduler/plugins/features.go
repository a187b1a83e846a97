// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/version"
	features "k8s.io/component-helpers/nodedeclaredfeatures"

	"knarr.dev/scheduler/snapshot"
)

// nodeDeclaredFeatures keeps pods off nodes that do not declare the features which the pod needs: node agents older than the API
// server, or other ones.
//
// See https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/.
func nodeDeclaredFeatures(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	framework := features.DefaultFramework
	needed, err := framework.InferForPodScheduling(&features.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, version.MajorMinor(1, 36))
	if err != nil || needed.IsEmpty() {
		return Rule{}
	}
	names, err := framework.Unmap(needed)
	if err != nil {
		return Rule{}
	}
	no := exclude("node(s) didn't match Pod's required features")
	return Rule{Filter: func(n *snapshot.Node) Verdict {
		for _, name := range names {
			if !slices.Contains(n.Status.DeclaredFeatures, name) {
				return no
			}
		}
		return Verdict{}
	}}
}
