// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snapshot is what the scheduler knows of nodes and the pods on them.
//
// State is the present: events and assumptions change it. Snapshot is the state at one moment, which one reader keeps
// and refreshes; only what changed since is copied. Nodes and pods in it are immutable: State replaces a Node by a
// changed copy, so a scheduling cycle works without locks while events come in.
package snapshot

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node with its pods. It never changes.
type Node struct {
	*corev1.Node
	Pods []*Pod
	// Requested and NonZero are the sums over the pods.
	Requested, NonZero Resources
	Allocatable        Resources
	// MaxPods is how many pods the node takes.
	MaxPods int64
	// Zone and Hostname are the values of these labels, the most usual topology keys.
	Zone, Hostname string
	// Cordoned is spec.unschedulable; Hard are the taints that keep pods off, Soft the others. They are here for speed.
	Cordoned   bool
	Hard, Soft []corev1.Taint
	// Lowest is the lowest priority of the pods; the highest there is if there are none.
	Lowest int32
	// Images are the sizes of the images that the node has, by name.
	Images map[string]int64
}

// Domain returns the node's value of a topology key; for the key "" its name.
func (n *Node) Domain(key string) (string, bool) {
	switch {
	case key == "":
		return n.Name, true
	case key == corev1.LabelTopologyZone && n.Zone != "":
		return n.Zone, true
	case key == corev1.LabelHostname && n.Hostname != "":
		return n.Hostname, true
	}
	value, has := n.Labels[key]
	return value, has
}

// AddPod returns the node with one more pod.
func (n *Node) AddPod(p *Pod) *Node {
	next := *n
	next.Pods = make([]*Pod, len(n.Pods)+1)
	copy(next.Pods, n.Pods)
	next.Pods[len(n.Pods)] = p
	next.Lowest = min(n.Lowest, p.Rank)
	next.Requested, next.NonZero = n.Requested.plus(&p.Requests, 1), n.NonZero.plus(&p.NonZero, 1)
	return &next
}

// RemovePod returns the node without a pod; the node itself if the pod is not there.
func (n *Node) RemovePod(uid types.UID) *Node {
	if !slices.ContainsFunc(n.Pods, func(p *Pod) bool { return p.UID == uid }) {
		return n
	}
	return n.Keep(func(p *Pod) bool { return p.UID != uid })
}

// Keep returns the node with only some of its pods.
func (n *Node) Keep(wanted func(*Pod) bool) *Node {
	next := *n
	next.Pods, next.Lowest = make([]*Pod, 0, len(n.Pods)), math.MaxInt32
	for _, p := range n.Pods {
		if wanted(p) {
			next.Pods = append(next.Pods, p)
			next.Lowest = min(next.Lowest, p.Rank)
			continue
		}
		next.Requested, next.NonZero = next.Requested.plus(&p.Requests, -1), next.NonZero.plus(&p.NonZero, -1)
	}
	return &next
}

func (n *Node) withNode(node *corev1.Node) *Node {
	next := *n
	if n.Node == nil || !apiequality.Semantic.DeepEqual(n.Status.Images, node.Status.Images) {
		next.Images = imagesOf(node)
	}
	next.Node, next.Allocatable, next.MaxPods = node, amounts(node.Status.Allocatable), node.Status.Allocatable.Pods().Value()
	next.Zone, next.Hostname = node.Labels[corev1.LabelTopologyZone], node.Labels[corev1.LabelHostname]
	next.Cordoned = node.Spec.Unschedulable
	next.Hard, next.Soft = taintsOf(node)
	return &next
}

func imagesOf(node *corev1.Node) map[string]int64 {
	if len(node.Status.Images) == 0 {
		return nil
	}
	images := make(map[string]int64, 2*len(node.Status.Images))
	for i := range node.Status.Images {
		for _, name := range node.Status.Images[i].Names {
			images[name] = node.Status.Images[i].SizeBytes
		}
	}
	return images
}

// Snapshot is the state at one moment. It belongs to one goroutine.
type Snapshot struct {
	// Nodes are in an order in which zones alternate.
	Nodes []*Node

	at         map[string]int
	index      index
	namespaces map[string]labels.Set
	order      int64 // of the nodes, as State counts
	named      int64 // of the namespaces
}

// Node returns a node by name, or nil.
func (s *Snapshot) Node(name string) *Node {
	if i, known := s.at[name]; known {
		return s.Nodes[i]
	}
	return nil
}

// Index tells where in Nodes a node is.
func (s *Snapshot) Index(name string) (int, bool) {
	i, known := s.at[name]
	return i, known
}

// Namespace returns the labels of a namespace.
func (s *Snapshot) Namespace(name string) labels.Set { return s.namespaces[name] }

// State is the present. Its methods may be called concurrently.
type State struct {
	mu         sync.Mutex
	nodes      map[string]*Node
	pods       map[types.UID]*Pod
	assumed    map[types.UID]bool // those of pods that no event has told of
	orphans    map[string][]*Pod  // pods of nodes that are not known
	namespaces map[string]labels.Set
	order      int64           // raised when nodes come, go or change zones
	named      int64           // raised when namespaces change
	dirty      map[string]bool // changed since the last Refresh
}

// NewState returns an empty state.
func NewState() *State {
	return &State{
		nodes: map[string]*Node{}, pods: map[types.UID]*Pod{}, assumed: map[types.UID]bool{}, orphans: map[string][]*Pod{},
		namespaces: map[string]labels.Set{}, order: 1, dirty: map[string]bool{},
	}
}

// Snapshot returns a snapshot that Refresh keeps up to date. A state has one.
func (s *State) Snapshot() *Snapshot {
	snap := &Snapshot{index: newIndex()}
	s.Refresh(snap)
	return snap
}

// Refresh brings the snapshot up to date.
func (s *State) Refresh(snap *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if snap.named != s.named {
		snap.named, snap.namespaces = s.named, maps.Clone(s.namespaces)
		clear(snap.index.asked) // may have gone by labels of namespaces
	}
	if snap.order != s.order {
		s.reorder(snap)
	} else {
		for name := range s.dirty {
			i, n := snap.at[name], s.nodes[name]
			old := snap.Nodes[i]
			snap.Nodes[i] = n
			snap.replace(old, n)
		}
	}
	clear(s.dirty)
}

func (s *State) reorder(snap *Snapshot) {
	before, at := snap.Nodes, snap.at
	snap.order, snap.Nodes = s.order, alternate(s.nodes)
	snap.at = make(map[string]int, len(snap.Nodes))
	for i, n := range snap.Nodes {
		snap.at[n.Name] = i
		var old *Node
		if k, known := at[n.Name]; known {
			old = before[k]
		}
		if old != n {
			snap.replace(old, n)
		}
	}
	for _, old := range before {
		if s.nodes[old.Name] == nil {
			snap.replace(old, nil)
		}
	}
}

// alternate orders nodes by name, taking turns between zones, so that a part of the nodes is spread over all zones.
func alternate(nodes map[string]*Node) []*Node {
	out := make([]*Node, 0, len(nodes))
	zones := map[string][]*Node{}
	for _, n := range nodes {
		z := zoneOf(n.Node)
		zones[z] = append(zones[z], n)
	}
	names := make([]string, 0, len(zones))
	for z, list := range zones {
		names = append(names, z)
		slices.SortFunc(list, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	}
	slices.Sort(names)
	for turn := 0; len(out) < len(nodes); turn++ {
		for _, z := range names {
			if list := zones[z]; turn < len(list) {
				out = append(out, list[turn])
			}
		}
	}
	return out
}

func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "/" + n.Labels[corev1.LabelTopologyZone]
}

func (s *State) put(n *Node) {
	s.nodes[n.Name] = n
	s.dirty[n.Name] = true
}

// SetNode adds or changes a node.
func (s *State) SetNode(node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.nodes[node.Name]
	if before == nil {
		n := (&Node{Lowest: math.MaxInt32}).withNode(node)
		for _, p := range s.orphans[node.Name] {
			n = n.AddPod(p)
		}
		delete(s.orphans, node.Name)
		s.order++
		s.put(n)
		return
	}
	n := before.withNode(node)
	if zoneOf(before.Node) != zoneOf(node) {
		s.order++
	}
	s.put(n)
}

// RemoveNode forgets a node; its pods are remembered until they go.
func (s *State) RemoveNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[name]
	if n == nil {
		return
	}
	if len(n.Pods) > 0 {
		s.orphans[name] = slices.Clone(n.Pods)
	}
	delete(s.nodes, name)
	delete(s.dirty, name)
	s.order++
}

// SetNamespace keeps the labels of a namespace; RemoveNamespace forgets them.
func (s *State) SetNamespace(name string, set labels.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.namespaces[name] = set
	s.named++
}

// RemoveNamespace forgets a namespace.
func (s *State) RemoveNamespace(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.namespaces, name)
	s.named++
}

// SetPod adds or changes a pod that has a node. It tells whether the pod is new there, beyond an assumption, or else
// changed in a way that matters.
func (s *State) SetPod(p *corev1.Pod) (placed, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.pods[p.UID]
	placed = before == nil || s.assumed[p.UID]
	delete(s.assumed, p.UID)
	if before != nil && same(before.Pod, p) {
		return placed, false
	}
	s.removePod(p.UID)
	s.addPod(NewPod(p))
	return placed, true
}

// Assume adds a pod to the node that it will be bound to.
func (s *State) Assume(p *Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removePod(p.UID)
	s.addPod(p)
	s.assumed[p.UID] = true
}

// Forget takes back what Assume did, unless the pod is known to be there by now.
func (s *State) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.assumed[uid] {
		s.removePod(uid)
	}
}

// RemovePod forgets a pod and tells whether it was known.
func (s *State) RemovePod(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removePod(uid)
}

func (s *State) addPod(p *Pod) {
	s.pods[p.UID] = p
	name := p.Spec.NodeName
	if n := s.nodes[name]; n != nil {
		s.put(n.AddPod(p))
	} else {
		s.orphans[name] = append(s.orphans[name], p)
	}
}

func (s *State) removePod(uid types.UID) bool {
	p := s.pods[uid]
	if p == nil {
		return false
	}
	delete(s.pods, uid)
	delete(s.assumed, uid)
	name := p.Spec.NodeName
	if n := s.nodes[name]; n != nil {
		s.put(n.RemovePod(uid))
		return true
	}
	left := slices.DeleteFunc(s.orphans[name], func(o *Pod) bool { return o.UID == uid })
	if s.orphans[name] = left; len(left) == 0 {
		delete(s.orphans, name)
	}
	return true
}
