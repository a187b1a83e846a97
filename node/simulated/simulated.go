// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package simulated is many nodes at once whose pods run without containers.
//
// To the API a simulated node is a node: it registers, renews its lease, takes the pods bound to it through the same
// life as node does (the decisions and statuses are those of package node/pod), and stops them gracefully. Only the runtime is
// missing: images are never pulled, probes succeed, containers run until they are told to stop. Annotations of a pod
// make it take time, end or fail; see settings.go. The annotation simulated.knarr.dev/down: "true" on a Node makes it
// fall silent, as a machine that lost power does, until it is removed; a Node that is deleted stays away.
//
// A thousand nodes cost little more than one: all share one view, one queue with one timer, and a few workers. What they
// remember of running pods can be read back from the pods' status, so a restart adopts them. Start with New and Run.
package simulated

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/util/workqueue"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// Node is one simulated node.
type Node struct {
	Name string
	// IP is its address, in statuses of the node and its pods.
	IP netip.Addr
	// PodCIDR is where the addresses of its pods come from; nothing answers there.
	PodCIDR netip.Prefix
	// Labels are further labels of the Node.
	Labels map[string]string
}

// Delays are how long things take when a pod says nothing else. Zero is at once.
type Delays struct {
	// Create is the time until a pod has its address.
	Create time.Duration
	// Start is the time until a container runs, such as for an image to be pulled.
	Start time.Duration
	// Ready is the time until a running container is ready.
	Ready time.Duration
	// Stop is the time that a container takes to stop, within the pod's grace period.
	Stop time.Duration
}

// Config says which nodes there are and how they behave. The zero value of everything but Nodes is usable.
type Config struct {
	Nodes []Node
	// Capacity of each node; what it lacks is 32 CPUs, 256 GiB of memory, 1 TiB of disk and 110 pods.
	Capacity corev1.ResourceList
	// Version is the version that nodes report.
	Version string
	Delays  Delays
	// Workers is how many things happen at the same time; a number that fits the number of nodes if 0.
	Workers int
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Account is the service account in kube-system under which the nodes' pods are watched: one view serves all nodes.
// Everything is written under the identity of the node it concerns.
const Account = "simulated-nodes"

// Needs are the rules of Account's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"get", "list", "watch"}}}
}

// Fleet is a set of simulated nodes.
type Fleet struct {
	config Config
	client *client.Client // of Account
	log    *slog.Logger
	now    func() time.Time

	nodes map[string]*machine // never changes
	queue workqueue.TypedRateLimitingInterface[item]
	pods  client.View[corev1.Pod]
	seen  client.View[corev1.Node]
	ready chan struct{}
	// started is set once the views are complete: from then on a node that appears or returns has its pods looked at.
	started atomic.Bool

	mu         sync.Mutex
	missing    int // nodes that are not registered yet
	containers map[client.Key]*simulation
	failing    map[item]bool // whose failure is logged already
}

// item is a node, if Pod is empty, or a pod that is to be looked at.
type item struct {
	Node string
	Pod  client.Key
}

// New returns a fleet that is not running. watcher has the identity of Account; as gives each node's client, which has
// the identity system:node:NAME.
func New(config Config, watcher *client.Client, as func(node string) *client.Client, log *slog.Logger) *Fleet {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Workers == 0 {
		config.Workers = min(4+len(config.Nodes)/8, 64)
	}
	config.Capacity = capacity(config.Capacity)
	f := &Fleet{
		config: config, client: watcher, log: log, now: config.Now, nodes: map[string]*machine{}, ready: make(chan struct{}),
		missing: len(config.Nodes), containers: map[client.Key]*simulation{}, failing: map[item]bool{},
	}
	for i, n := range config.Nodes {
		f.nodes[n.Name] = &machine{Node: n, number: i, client: as(n.Name), addresses: newAddresses(n.PodCIDR)}
	}
	if f.missing == 0 {
		close(f.ready)
	}
	return f
}

func capacity(list corev1.ResourceList) corev1.ResourceList {
	all := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"), corev1.ResourcePods: resource.MustParse("110"),
	}
	for name, quantity := range list {
		all[name] = quantity
	}
	return all
}

// Ready is closed when all nodes are registered and ready.
func (f *Fleet) Ready() <-chan struct{} { return f.ready }

// Run runs the nodes until ctx ends. Pods are not stopped then: another run adopts them.
func (f *Fleet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	if f.pods, err = client.Of(f.client, core.Pods).View(ctx, client.ListOptions{}); err != nil {
		return fmt.Errorf("view of pods: %w", err)
	}
	if f.seen, err = client.Of(f.client, core.Nodes).View(ctx, client.ListOptions{}); err != nil {
		return fmt.Errorf("view of nodes: %w", err)
	}
	f.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](5*time.Millisecond, 30*time.Second))
	var running, synced sync.WaitGroup
	failed := make(chan error, 2)
	subscribe := func(f func(synced func()) error) {
		synced.Add(1)
		running.Go(func() {
			done := sync.OnceFunc(synced.Done)
			defer done()
			if err := f(done); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	subscribe(func(synced func()) error { return f.pods.Subscribe(ctx, f.podChanged, synced) })
	subscribe(func(synced func()) error { return f.seen.Subscribe(ctx, f.nodeChanged, synced) })
	synced.Wait() // addresses in use are known before the first is given
	f.started.Store(true)
	for _, n := range f.config.Nodes {
		f.queue.Add(item{Node: n.Name})
	}
	for range f.config.Workers {
		running.Go(func() {
			for f.next(ctx) {
			}
		})
	}
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-failed:
	}
	cancel()
	f.queue.ShutDown()
	running.Wait()
	return err
}

func (f *Fleet) podChanged(p, old *corev1.Pod) {
	if p == nil {
		p = old
	} else if p.Status.PodIP != "" && !p.Spec.HostNetwork {
		if n := f.nodes[p.Spec.NodeName]; n != nil && holdsAddress(p) {
			n.addresses.take(p.Status.PodIP, p.UID)
		}
	}
	if f.nodes[p.Spec.NodeName] != nil {
		f.queue.Add(item{Pod: client.KeyOf(p)})
	}
}

func (f *Fleet) nodeChanged(n, old *corev1.Node) {
	if n == nil || f.nodes[n.Name] == nil {
		return
	}
	f.queue.Add(item{Node: n.Name})
	if f.started.Load() && (old == nil || isDown(old)) && !isDown(n) {
		for p := range f.pods.All("") {
			if p.Spec.NodeName == n.Name {
				f.queue.Add(item{Pod: client.KeyOf(p)})
			}
		}
	}
}

// next does one thing; false means that the queue is closed.
func (f *Fleet) next(ctx context.Context) bool {
	i, closed := f.queue.Get()
	if closed {
		return false
	}
	defer f.queue.Done(i)
	if ctx.Err() != nil {
		return true
	}
	var after time.Duration
	var err error
	if i.Node != "" {
		after, err = f.lookAtNode(ctx, f.nodes[i.Node])
	} else {
		after, err = f.lookAtPod(ctx, i.Pod)
	}
	f.note(ctx, i, err)
	if err != nil {
		f.queue.AddRateLimited(i)
		return true
	}
	f.queue.Forget(i)
	if after > 0 {
		f.queue.AddAfter(i, after)
	}
	return true
}

// note logs the first failure of a streak. Conflicts are the normal course of things: the view is a little behind.
func (f *Fleet) note(ctx context.Context, i item, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.failing, i)
		return
	}
	if f.failing[i] || apierrors.IsConflict(err) || ctx.Err() != nil || errors.Is(err, errNoAddress) {
		return
	}
	f.failing[i] = true
	f.log.Warn("simulated node", "node", i.Node, "pod", i.Pod.String(), "error", err)
}
