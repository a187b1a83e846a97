// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/scheduler/snapshot"
)

// nominations are the pods that wait for victims of preemption to leave a node, so that others do not take the room.
type nominations struct {
	mu     sync.Mutex
	nodes  map[types.UID]string
	byNode map[string]map[types.UID]*snapshot.Pod
}

func newNominations() *nominations {
	return &nominations{nodes: map[types.UID]string{}, byNode: map[string]map[types.UID]*snapshot.Pod{}}
}

// set nominates a pod for a node, or for none if node is empty.
func (n *nominations) set(p *snapshot.Pod, node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear(p.UID)
	if node == "" {
		return
	}
	n.nodes[p.UID] = node
	if n.byNode[node] == nil {
		n.byNode[node] = map[types.UID]*snapshot.Pod{}
	}
	n.byNode[node][p.UID] = p
}

// remove takes back a nomination, and tells whether there was one.
func (n *nominations) remove(uid types.UID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.nodes[uid]
	n.clear(uid)
	return known
}

func (n *nominations) clear(uid types.UID) {
	node, known := n.nodes[uid]
	if !known {
		return
	}
	delete(n.nodes, uid)
	if delete(n.byNode[node], uid); len(n.byNode[node]) == 0 {
		delete(n.byNode, node)
	}
}

// node returns the node that a pod is nominated for.
func (n *nominations) node(uid types.UID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nodes[uid]
}

// beside returns, by node, the pods that have to be counted as there when p is placed: those of its priority or higher.
func (n *nominations) beside(p *snapshot.Pod) map[string][]*snapshot.Pod {
	return n.find(func(o *snapshot.Pod) bool { return o.UID != p.UID && o.Rank >= p.Rank })
}

// below returns the pods of lower priority that are nominated for a node.
func (n *nominations) below(p *snapshot.Pod, node string) []*snapshot.Pod {
	return n.find(func(o *snapshot.Pod) bool { return o.UID != p.UID && o.Rank < p.Rank })[node]
}

func (n *nominations) find(wanted func(*snapshot.Pod) bool) map[string][]*snapshot.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.nodes) == 0 {
		return nil
	}
	found := map[string][]*snapshot.Pod{}
	for node, list := range n.byNode {
		for _, o := range list {
			if wanted(o) {
				found[node] = append(found[node], o)
			}
		}
	}
	return found
}
