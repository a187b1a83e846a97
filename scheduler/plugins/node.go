// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/scheduler/snapshot"
)

// nodeUnschedulable keeps pods off cordoned nodes.
func nodeUnschedulable(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	taint := &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	tolerated, no := tolerates(pod.Spec.Tolerations, taint), exclude("node(s) were unschedulable")
	return Rule{Filter: func(n *snapshot.Node) Verdict {
		if n.Cordoned && !tolerated {
			return no
		}
		return Verdict{}
	}}
}

// nodeName keeps a pod to the node that it names.
func nodeName(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	if pod.Spec.NodeName == "" {
		return Rule{}
	}
	no := exclude("node(s) didn't match the requested node name")
	return Rule{Filter: func(n *snapshot.Node) Verdict {
		if n.Name != pod.Spec.NodeName {
			return no
		}
		return Verdict{}
	}}
}

// taintToleration keeps pods off nodes whose taints they do not tolerate, and prefers nodes with few soft taints.
func taintToleration(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	no := exclude("node(s) had untolerated taint(s)")
	return Rule{
		Filter: func(n *snapshot.Node) Verdict {
			for i := range n.Hard {
				if !tolerates(pod.Spec.Tolerations, &n.Hard[i]) {
					return no
				}
			}
			return Verdict{}
		},
		Score: func(n *snapshot.Node) (count int64) {
			for i := range n.Soft {
				if !tolerates(pod.Spec.Tolerations, &n.Soft[i]) {
					count++
				}
			}
			return count
		},
		Normalize: scaleDown,
	}
}

// nodeAffinity follows nodeSelector and node affinity.
func nodeAffinity(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	var rule Rule
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	affinity := pod.Spec.Affinity
	if len(pod.Spec.NodeSelector) > 0 || affinity != nil && affinity.NodeAffinity != nil {
		no := exclude("node(s) didn't match Pod's node affinity/selector")
		rule.Filter = func(n *snapshot.Node) Verdict {
			if ok, err := required.Match(n.Node); err != nil || !ok {
				return no
			}
			return Verdict{}
		}
	}
	rule.Only = named(affinity)
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return rule
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return rule // validation does not let it in
	}
	rule.Score = func(n *snapshot.Node) int64 { return preferred.Score(n.Node) }
	rule.Normalize = scaleUp
	return rule
}

// named returns the names of the nodes that required affinity allows, as for pods of DaemonSets; nil if it does not name them.
func named(affinity *corev1.Affinity) []string {
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	names := []string{}
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		i := slices.IndexFunc(term.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn
		})
		if i < 0 {
			return nil
		}
		names = append(names, term.MatchFields[i].Values...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// nodePorts keeps apart pods that want the same port of the node.
func nodePorts(pod *snapshot.Pod, _ *snapshot.Snapshot) Rule {
	if len(pod.Ports) == 0 {
		return Rule{}
	}
	no := refuse("node(s) didn't have free ports for the requested pod ports")
	return Rule{Filter: func(n *snapshot.Node) Verdict {
		for _, other := range n.Pods {
			for i := range other.Ports {
				for j := range pod.Ports {
					if portsClash(&other.Ports[i], &pod.Ports[j]) {
						return no
					}
				}
			}
		}
		return Verdict{}
	}}
}

func portsClash(a, b *corev1.ContainerPort) bool {
	if a.HostPort != b.HostPort || a.Protocol != b.Protocol {
		return false
	}
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.HostIP == b.HostIP || everywhere(a.HostIP) || everywhere(b.HostIP)
}
