// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snapshot is what the scheduler knows of nodes and the pods on them.
//
// Nodes are immutable: State replaces a Node by a changed copy, so a scheduling cycle works on a slice of them without
// locks while events come in.
package snapshot

import (
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Resources are amounts: CPU in thousandths, the rest in units.
type Resources map[corev1.ResourceName]int64

// Node is a node with its pods. It never changes.
type Node struct {
	*corev1.Node
	Pods []*Pod
	// Requested is the sum of the requests of the pods; NonZero counts pods without requests as if they had small ones.
	Requested, NonZero Resources
	Allocatable        Resources
	// Affine are those of Pods that have required affinity or anti-affinity.
	Affine []*Pod
}

// Pod is a pod with what is computed from it once.
type Pod struct {
	*corev1.Pod
	Requests, NonZero Resources
	Ports             []corev1.ContainerPort
	affine            bool
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
	info := &Pod{Pod: p, Requests: amounts(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}))}
	info.NonZero = amounts(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{NonMissingContainerRequests: nonZero()}))
	for _, list := range [][]corev1.Container{p.Spec.Containers, sidecars(p)} {
		for i := range list {
			for _, port := range list[i].Ports {
				if port.HostPort > 0 {
					info.Ports = append(info.Ports, port)
				}
			}
		}
	}
	if a := p.Spec.Affinity; a != nil {
		info.affine = a.PodAffinity != nil || a.PodAntiAffinity != nil
	}
	return info
}

func sidecars(p *corev1.Pod) (list []corev1.Container) {
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			list = append(list, c)
		}
	}
	return list
}

func amounts(list corev1.ResourceList) Resources {
	r := make(Resources, len(list))
	for name, q := range list {
		if name == corev1.ResourceCPU {
			r[name] = q.MilliValue()
		} else {
			r[name] = q.Value()
		}
	}
	return r
}

// AddPod returns the node with one more pod, RemovePod with one fewer.
func (n *Node) AddPod(p *Pod) *Node { return n.with(append(slices.Clip(slices.Clone(n.Pods)), p), p, 1) }

// RemovePod returns the node without a pod; the node itself if the pod is not there.
func (n *Node) RemovePod(uid types.UID) *Node {
	i := slices.IndexFunc(n.Pods, func(p *Pod) bool { return p.UID == uid })
	if i < 0 {
		return n
	}
	p := n.Pods[i]
	return n.with(slices.Delete(slices.Clone(n.Pods), i, i+1), p, -1)
}

func (n *Node) with(pods []*Pod, changed *Pod, sign int64) *Node {
	next := &Node{Node: n.Node, Pods: pods, Allocatable: n.Allocatable, Affine: n.Affine}
	next.Requested, next.NonZero = maps.Clone(n.Requested), maps.Clone(n.NonZero)
	for name, v := range changed.Requests {
		next.Requested[name] += sign * v
	}
	for name, v := range changed.NonZero {
		next.NonZero[name] += sign * v
	}
	if changed.affine {
		next.Affine = nil
		for _, p := range pods {
			if p.affine {
				next.Affine = append(next.Affine, p)
			}
		}
	}
	return next
}

func (n *Node) withNode(node *corev1.Node) *Node {
	next := *n
	next.Node, next.Allocatable = node, amounts(node.Status.Allocatable)
	return &next
}

// State is the present, kept up to date by events. Its methods may be called concurrently.
type State struct {
	mu      sync.Mutex
	nodes   []*Node // in order of name
	byName  map[string]int
	pods    map[types.UID]*Pod
	orphans map[string][]*Pod // pods of nodes that are not known
}

// NewState returns an empty state.
func NewState() *State {
	return &State{byName: map[string]int{}, pods: map[types.UID]*Pod{}, orphans: map[string][]*Pod{}}
}

// Nodes returns the nodes as they are now. The slice belongs to the caller, the nodes to nobody.
func (s *State) Nodes() []*Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nodes)
}

// SetNode adds or changes a node.
func (s *State) SetNode(node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, known := s.byName[node.Name]; known {
		s.nodes[i] = s.nodes[i].withNode(node)
		return
	}
	n := &Node{Node: node, Requested: Resources{}, NonZero: Resources{}, Allocatable: amounts(node.Status.Allocatable)}
	for _, p := range s.orphans[node.Name] {
		n = n.AddPod(p)
	}
	delete(s.orphans, node.Name)
	i, _ := slices.BinarySearchFunc(s.nodes, node.Name, func(n *Node, name string) int { return strings.Compare(n.Name, name) })
	s.nodes = slices.Insert(s.nodes, i, n)
	s.index(i)
}

// RemoveNode forgets a node; its pods are remembered until they go.
func (s *State) RemoveNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, known := s.byName[name]
	if !known {
		return
	}
	if pods := s.nodes[i].Pods; len(pods) > 0 {
		s.orphans[name] = pods
	}
	s.nodes = slices.Delete(s.nodes, i, i+1)
	delete(s.byName, name)
	s.index(i)
}

func (s *State) index(from int) {
	for i := from; i < len(s.nodes); i++ {
		s.byName[s.nodes[i].Name] = i
	}
}

// SetPod adds or changes a pod that has a node, assumed or real.
func (s *State) SetPod(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removePod(p.UID)
	info := NewPod(p)
	s.pods[p.UID] = info
	if i, known := s.byName[p.Spec.NodeName]; known {
		s.nodes[i] = s.nodes[i].AddPod(info)
	} else {
		s.orphans[p.Spec.NodeName] = append(s.orphans[p.Spec.NodeName], info)
	}
}

// RemovePod forgets a pod.
func (s *State) RemovePod(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removePod(uid)
}

func (s *State) removePod(uid types.UID) {
	p := s.pods[uid]
	if p == nil {
		return
	}
	delete(s.pods, uid)
	name := p.Spec.NodeName
	if i, known := s.byName[name]; known {
		s.nodes[i] = s.nodes[i].RemovePod(uid)
		return
	}
	left := slices.DeleteFunc(s.orphans[name], func(o *Pod) bool { return o.UID == uid })
	if s.orphans[name] = left; len(left) == 0 {
		delete(s.orphans, name)
	}
}
