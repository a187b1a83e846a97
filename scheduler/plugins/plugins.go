// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package plugins holds the scheduler's rules: which nodes a pod may go to, and which of those is best.
//
// A plugin is a file and a line in All. It is pure: everything that it looks at is in the snapshot.
package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/scheduler/snapshot"
)

// MaxScore is the best score.
const MaxScore = 100

// Event is a set of kinds of change that may let a pod that was refused fit after all.
type Event uint16

// The kinds of change.
const (
	NodeAdded Event = 1 << iota
	NodeRemoved
	NodeRoom   // allocatable amounts
	NodeLabels // labels
	NodeTaints // taints and spec.unschedulable
	PodPlaced  // a pod got a node
	PodRemoved // a pod on a node ended, or is no more
	PodChanged // labels or requests of a pod on a node
	NamespaceChanged
	NodeFeatures // declared ones
)

// Kinds is how many kinds of change there are; Anything is all of them.
const (
	Kinds          = 10
	Anything Event = 1<<Kinds - 1
)

// Verdict is why a node does not fit; the zero value means that it does.
type Verdict struct {
	// Reasons are in the words that users know from events. The slice is shared: do not change it.
	Reasons []string
	// Final means that no pod's leaving would help, so that preemption is in vain.
	Final bool
}

// Fits tells whether there is nothing against the node.
func (v Verdict) Fits() bool { return len(v.Reasons) == 0 }

func refuse(reason string) Verdict  { return Verdict{Reasons: []string{reason}} }
func exclude(reason string) Verdict { return Verdict{Reasons: []string{reason}, Final: true} }

// Plugin is one rule; Prepare makes it for one pod and the nodes of one moment.
type Plugin struct {
	Name string
	// Weight of the score beside others'.
	Weight int64
	// Helps are the changes after which a node or pod that the rule refused is worth another try.
	Helps Event
	// Prepare looks at the pod and the snapshot once; nil functions in the Rule mean that it has nothing to say.
	Prepare func(pod *snapshot.Pod, s *snapshot.Snapshot) Rule
}

// Rule is a plugin at work on one pod. It belongs to one goroutine.
type Rule struct {
	// Reject, if not empty, is why no node will do.
	Reject string
	// Only, if not nil, names the nodes that come into question, so that there is no need to look at the others.
	Only   []string
	Filter func(n *snapshot.Node) Verdict
	// Move tells the rule to count a pod on a node as there (by 1) or gone (by -1) from now on; nil if Filter
	// looks only at the node that it is given.
	Move func(n *snapshot.Node, p *snapshot.Pod, by int64)
	// Score rates a node that fits; Normalize brings the raw scores of all to 0..MaxScore.
	Score     func(n *snapshot.Node) int64
	Normalize func(scores []int64)
}

// All returns the plugins in the order in which they filter: cheap and decisive ones first.
func All() []Plugin {
	return []Plugin{
		{Name: "NodeUnschedulable", Helps: NodeAdded | NodeTaints, Prepare: nodeUnschedulable},
		{Name: "NodeName", Helps: NodeAdded, Prepare: nodeName},
		{Name: "TaintToleration", Weight: 3, Helps: NodeAdded | NodeTaints, Prepare: taintToleration},
		{Name: "NodeAffinity", Weight: 2, Helps: NodeAdded | NodeLabels, Prepare: nodeAffinity},
		{Name: "NodeDeclaredFeatures", Helps: NodeAdded | NodeFeatures, Prepare: nodeDeclaredFeatures},
		{Name: "NodePorts", Helps: NodeAdded | PodRemoved, Prepare: nodePorts},
		{Name: "NodeResourcesFit", Weight: 1, Helps: NodeAdded | NodeRoom | PodRemoved | PodChanged, Prepare: nodeResourcesFit},
		{Name: "VolumeBinding", Helps: Anything, Prepare: volumeBinding},
		{Name: "PodTopologySpread", Weight: 2, Helps: Anything &^ (NodeRoom | NamespaceChanged), Prepare: podTopologySpread},
		{Name: "InterPodAffinity", Weight: 2, Helps: Anything &^ (NodeRoom | NodeTaints | NodeRemoved), Prepare: interPodAffinity},
		{Name: "NodeResourcesBalancedAllocation", Weight: 1, Prepare: balancedAllocation},
		{Name: "ImageLocality", Weight: 1, Prepare: imageLocality},
	}
}

// scaleUp brings scores to 0..MaxScore with the highest best; scaleDown with the lowest best.
func scaleUp(scores []int64) {
	highest := int64(0)
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i := range scores {
		if highest > 0 {
			scores[i] = scores[i] * MaxScore / highest
		}
	}
}

func scaleDown(scores []int64) {
	highest := int64(0)
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i := range scores {
		if highest == 0 {
			scores[i] = MaxScore
		} else {
			scores[i] = MaxScore - scores[i]*MaxScore/highest
		}
	}
}

// spread brings scores between their least and their greatest to 0..MaxScore.
func spread(scores []int64) {
	if len(scores) == 0 {
		return
	}
	least, greatest := scores[0], scores[0]
	for _, s := range scores {
		least, greatest = min(least, s), max(greatest, s)
	}
	for i, s := range scores {
		if least == greatest {
			scores[i] = 0
		} else {
			scores[i] = MaxScore * (s - least) / (greatest - least)
		}
	}
}

func tolerates(tolerations []corev1.Toleration, t *corev1.Taint) bool {
	for i := range tolerations {
		tol := &tolerations[i]
		if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
			continue
		}
		if tol.Operator == corev1.TolerationOpExists || tol.Key != "" && tol.Value == t.Value {
			return true
		}
	}
	return false
}
