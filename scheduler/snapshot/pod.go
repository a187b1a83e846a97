// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resources are amounts: CPU in thousandths, the rest in units.
type Resources struct {
	CPU, Memory, Ephemeral int64
	// Others are extended resources and huge pages. The map is never changed once published.
	Others map[corev1.ResourceName]int64
}

// Get returns the amount of a resource; 0 if there is none.
func (r *Resources) Get(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.CPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.Ephemeral
	}
	return r.Others[name]
}

// plus returns r + sign*o.
func (r Resources) plus(o *Resources, sign int64) Resources {
	r.CPU += sign * o.CPU
	r.Memory += sign * o.Memory
	r.Ephemeral += sign * o.Ephemeral
	if len(o.Others) > 0 {
		sum := make(map[corev1.ResourceName]int64, len(r.Others)+len(o.Others))
		maps.Copy(sum, r.Others)
		for name, v := range o.Others {
			sum[name] += sign * v
		}
		r.Others = sum
	}
	return r
}

func amounts(list corev1.ResourceList) (r Resources) {
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.CPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.Ephemeral = q.Value()
		case corev1.ResourcePods:
		default:
			if r.Others == nil {
				r.Others = map[corev1.ResourceName]int64{}
			}
			r.Others[name] = q.Value()
		}
	}
	return r
}

// Pod is a pod with what is computed from it once. It never changes.
type Pod struct {
	*corev1.Pod
	// Requests are what the pod reserves; NonZero counts containers without requests as if they had small ones.
	Requests, NonZero Resources
	// Ports are the ports of the node that it takes.
	Ports []corev1.ContainerPort
	// With and Without are its required affinity and anti-affinity, Prefer its preferences (negative weights for anti-affinity).
	With, Without, Prefer []Term
	// Rank is the pod's priority.
	Rank int32
	// Owner is the controller of the pod; empty if it has none.
	Owner types.UID
}

// What a container without a request counts as when nodes are compared.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

func nonZero() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
	}
}

// NewPod computes what the scheduler needs of a pod.
func NewPod(p *corev1.Pod) *Pod {
	// A pod that is being resized counts as the greater of what it has and what it asks for.
	real := resourcehelper.PodResourcesOptions{UseStatusResources: p.Spec.NodeName != ""}
	padded := real
	padded.NonMissingContainerRequests = nonZero()
	info := &Pod{
		Pod: p, Requests: amounts(resourcehelper.PodRequests(p, real)), NonZero: amounts(resourcehelper.PodRequests(p, padded)),
	}
	if p.Spec.Priority != nil {
		info.Rank = *p.Spec.Priority
	}
	for i := range p.Spec.Containers {
		info.ports(&p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			info.ports(c)
		}
	}
	if p.Spec.Affinity != nil {
		info.With, info.Without, info.Prefer = terms(p)
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		info.Owner = owner.UID
	}
	return info
}

func (p *Pod) ports(c *corev1.Container) {
	for _, port := range c.Ports {
		if port.HostPort > 0 {
			p.Ports = append(p.Ports, port)
		}
	}
}

// On returns the pod as it will be once it is bound to a node.
func (p *Pod) On(node string) *Pod {
	object := *p.Pod
	object.Spec.NodeName = node
	next := *p
	next.Pod = &object
	return &next
}

// same tells whether two versions of a pod on a node are the same for scheduling, so that nothing need be computed.
func same(a, b *corev1.Pod) bool {
	if a.Spec.NodeName != b.Spec.NodeName || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) || !maps.Equal(a.Labels, b.Labels) {
		return false
	}
	if resizing(a) || resizing(b) || len(a.Spec.Containers) != len(b.Spec.Containers) || len(a.Spec.InitContainers) != len(b.Spec.InitContainers) {
		return false
	}
	for i := range a.Spec.Containers {
		if !apiequality.Semantic.DeepEqual(a.Spec.Containers[i].Resources, b.Spec.Containers[i].Resources) {
			return false
		}
	}
	return true
}

func resizing(p *corev1.Pod) bool {
	for i := range p.Status.Conditions {
		if t := p.Status.Conditions[i].Type; t == corev1.PodResizePending || t == corev1.PodResizeInProgress {
			return true
		}
	}
	return false
}
