// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package garbagecollector deletes objects whose owners are all gone, and carries out foreground deletion and orphaning.
//
// It keeps a graph of who owns whom over the views of all kinds, metadata only. decide is pure. An owner that the graph does
// not know is looked up before anything is deleted because of it. See
// https://kubernetes.io/docs/concepts/architecture/garbage-collection/.
package garbagecollector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

const workers = 8

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"delete", "get", "list", "patch", "update", "watch"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
	}
}

// New returns the loop; kinds are all that are built in. Custom resources come and go with their definitions.
func New(c *client.Client, kinds []*resource.Kind) controller.Controller {
	g := &collector{client: c, graph: graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]struct{}{}}}
	for _, k := range kinds {
		if !k.Virtual && k.Stored == nil && k.Kind != "Event" && (k.Verbs == nil || slices.Contains(k.Verbs, "delete")) {
			g.kinds = append(g.kinds, k)
		}
	}
	return controller.Controller{Name: "generic-garbage-collector", Needs: Needs(), Run: g.run}
}

type collector struct {
	client *client.Client
	kinds  []*resource.Kind
	queue  workqueue.TypedRateLimitingInterface[types.UID]
	graph  graph
	custom custom
}

// node is what the graph remembers of an object.
type node struct {
	kind   *resource.Kind
	key    client.Key
	uid    types.UID
	owners []metav1.OwnerReference
	// deleting, orphan and foreground say that it is being deleted, and with which of the collector's finalizers.
	deleting, orphan, foreground bool
}

// graph is every object by identity, and who depends on it.
type graph struct {
	mu         sync.Mutex
	nodes      map[types.UID]*node
	dependents map[types.UID]map[types.UID]struct{} // by owner, also of owners that are not known
}

func nodeOf(k *resource.Kind, o resource.Object) *node {
	return &node{
		kind: k, key: client.KeyOf(o), uid: o.GetUID(), owners: o.GetOwnerReferences(), deleting: o.GetDeletionTimestamp() != nil,
		orphan:     slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents),
		foreground: slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents),
	}
}

// put adds or replaces an object and returns whom that concerns.
func (g *graph) put(n *node) (concerned []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.nodes[n.uid]
	if old != nil {
		g.unlink(old)
	}
	g.nodes[n.uid] = n
	for _, ref := range n.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][n.uid] = struct{}{}
	}
	if len(n.owners) > 0 || n.deleting && (n.orphan || n.foreground) {
		concerned = append(concerned, n.uid)
	}
	if old != nil && !sameOwners(old.owners, n.owners) { // an owner that waited for it may wait no more
		for _, ref := range old.owners {
			concerned = append(concerned, ref.UID)
		}
	}
	return concerned
}

func sameOwners(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool { return x.UID == y.UID && blocks(x) == blocks(y) })
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// remove forgets an object and returns its dependents and owners, whom that concerns.
func (g *graph) remove(uid types.UID) (concerned []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	delete(g.nodes, uid)
	g.unlink(n)
	for d := range g.dependents[uid] {
		concerned = append(concerned, d)
	}
	for _, ref := range n.owners {
		concerned = append(concerned, ref.UID)
	}
	return concerned
}

// lacking returns the objects with an owner of a kind that the graph does not know.
func (g *graph) lacking(k *resource.Kind) (concerned []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, n := range g.nodes {
		for _, ref := range n.owners {
			group, _, _ := strings.Cut(ref.APIVersion, "/")
			if g.nodes[ref.UID] == nil && ref.Kind == k.Kind && group == k.Group {
				concerned = append(concerned, uid)
				break
			}
		}
	}
	return concerned
}

func (g *graph) unlink(n *node) {
	for _, ref := range n.owners {
		delete(g.dependents[ref.UID], n.uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
	}
}

// look returns an object and its dependents as they are now.
func (g *graph) look(uid types.UID) (n *node, dependents []*node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for d := range g.dependents[uid] {
		dependents = append(dependents, g.nodes[d])
	}
	return g.nodes[uid], dependents
}

func (c *collector) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](5*time.Millisecond, time.Minute))
	var wg, synced sync.WaitGroup
	failed := make(chan error, len(c.kinds))
	for _, k := range c.kinds {
		view, err := c.client.Transport().View(ctx, &call.Request{Kind: k})
		if err != nil {
			failed <- fmt.Errorf("view of %s: %w", k.Resource, err)
			break
		}
		synced.Add(1)
		wg.Go(func() { c.follow(ctx, k, view, synced.Done) })
	}
	if slices.Contains(c.kinds, extension.CustomResourceDefinitions.Kind) {
		wg.Go(func() { c.followDefinitions(ctx) })
	}
	synced.Wait() // nobody is collected before every owner is known
	for range workers {
		wg.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-failed:
	}
	cancel()
	c.queue.ShutDown()
	wg.Wait()
	return err
}

func (c *collector) follow(ctx context.Context, k *resource.Kind, view call.View, synced func()) {
	var once sync.Once
	done := func() { once.Do(synced) }
	defer done()
	_ = view.Subscribe(ctx, func(obj, old resource.Object) {
		var concerned []types.UID
		if obj == nil {
			concerned = c.graph.remove(old.GetUID())
		} else {
			if old != nil && old.GetUID() != obj.GetUID() {
				concerned = c.graph.remove(old.GetUID())
			}
			concerned = append(concerned, c.graph.put(nodeOf(k, obj))...)
		}
		for _, uid := range concerned {
			c.queue.Add(uid)
		}
	}, done) // it ends with ctx
}

func (c *collector) next(ctx context.Context) bool {
	uid, closed := c.queue.Get()
	if closed {
		return false
	}
	defer c.queue.Done(uid)
	err := c.collect(ctx, uid)
	switch {
	case ctx.Err() != nil:
	case err != nil && !apierrors.IsNotFound(err):
		c.queue.AddRateLimited(uid)
	default:
		c.queue.Forget(uid)
	}
	return true
}

// collect does what is to be done about one object now.
func (c *collector) collect(ctx context.Context, uid types.UID) error {
	n, dependents := c.graph.look(uid)
	switch {
	case n == nil:
		return nil
	case n.deleting && n.orphan:
		return c.orphan(ctx, n, dependents)
	case n.deleting && n.foreground:
		return c.foreground(ctx, n, dependents)
	case n.deleting || len(n.owners) == 0:
		return nil
	}
	states := make([]state, len(n.owners))
	for i, ref := range n.owners {
		s, err := c.ownerState(ctx, n, ref)
		if err != nil {
			return err
		}
		states[i] = s
	}
	switch decide(states) {
	case release:
		gone := map[types.UID]bool{}
		for i, ref := range n.owners {
			if states[i] != solid {
				gone[ref.UID] = true
			}
		}
		return c.dropOwners(ctx, n, gone)
	case deleteForeground:
		if slices.ContainsFunc(dependents, func(d *node) bool { return d.deleting && d.foreground }) { // perhaps one of its owners: they would wait for each other
			if err := c.unblock(ctx, n); err != nil {
				return err
			}
		}
		policy := metav1.DeletePropagationForeground
		if len(dependents) == 0 {
			policy = metav1.DeletePropagationBackground
		}
		return c.delete(ctx, n, policy)
	case deleteBackground:
		policy := metav1.DeletePropagationBackground
		switch {
		case n.orphan:
			policy = metav1.DeletePropagationOrphan
		case n.foreground:
			policy = metav1.DeletePropagationForeground
		}
		return c.delete(ctx, n, policy)
	}
	return nil
}

// state is what an owner is like.
type state int

const (
	solid   state = iota // it is there, or nobody can tell
	absent               // it is gone
	waiting              // it waits for its dependents to go first
)

type decision int

const (
	keep decision = iota
	release
	deleteForeground
	deleteBackground
)

// decide says what becomes of an object from what its owners are like.
func decide(owners []state) decision {
	has := func(s state) bool { return slices.Contains(owners, s) }
	switch {
	case has(solid) && (has(absent) || has(waiting)):
		return release
	case has(solid):
		return keep
	case has(waiting):
		return deleteForeground
	}
	return deleteBackground
}

// ownerState asks the graph and, if that does not know the owner, the server.
func (c *collector) ownerState(ctx context.Context, n *node, ref metav1.OwnerReference) (state, error) {
	owner, _ := c.graph.look(ref.UID)
	if owner != nil {
		if owner.kind.Scope == resource.Namespaced && owner.key.Namespace != n.key.Namespace {
			return absent, nil // owners are of the same namespace, or of none
		}
		if owner.deleting && owner.foreground && blocks(ref) {
			return waiting, nil
		}
		return solid, nil
	}
	k := c.kindOf(ref)
	if k == nil {
		return solid, nil // a kind that is not served here: its objects may live elsewhere
	}
	namespace := ""
	if k.Scope == resource.Namespaced {
		if namespace = n.key.Namespace; namespace == "" {
			return solid, nil // a cluster-scoped object cannot have a namespaced owner: leave it to people
		}
	}
	res, err := c.client.Transport().Do(ctx, &call.Request{Verb: "get", Kind: k, Namespace: namespace, Name: ref.Name})
	switch {
	case apierrors.IsNotFound(err):
		return absent, nil
	case err != nil:
		return solid, err
	case res.Object.GetUID() != ref.UID:
		return absent, nil
	}
	return solid, nil
}

// kindOf is the kind that a reference names, or nil.
func (c *collector) kindOf(ref metav1.OwnerReference) *resource.Kind {
	for _, k := range append(c.custom.all(), c.kinds...) {
		if k.Kind == ref.Kind && k.GroupVersion().String() == ref.APIVersion {
			return k
		}
	}
	return nil
}

// orphan frees the dependents and then lets the object go.
func (c *collector) orphan(ctx context.Context, n *node, dependents []*node) error {
	var problems []error
	for _, d := range dependents {
		if err := c.dropOwners(ctx, d, map[types.UID]bool{n.uid: true}); !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return c.dropFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

// foreground lets the object go when no dependent that blocks it is left; the dependents delete themselves.
func (c *collector) foreground(ctx context.Context, n *node, dependents []*node) error {
	blocked := false
	for _, d := range dependents {
		i := slices.IndexFunc(d.owners, func(ref metav1.OwnerReference) bool { return ref.UID == n.uid })
		if i >= 0 && blocks(d.owners[i]) {
			blocked = true
			c.queue.Add(d.uid)
		}
	}
	if blocked {
		return nil
	}
	return c.dropFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
}

func (c *collector) delete(ctx context.Context, n *node, policy metav1.DeletionPropagation) error {
	_, err := c.client.Transport().Do(ctx, &call.Request{
		Verb: "delete", Kind: n.kind, Namespace: n.key.Namespace, Name: n.key.Name,
		Delete: &metav1.DeleteOptions{PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &n.uid}},
	})
	if apierrors.IsConflict(err) { // another object has the name now
		return nil
	}
	return err
}

func (c *collector) dropOwners(ctx context.Context, n *node, gone map[types.UID]bool) error {
	return c.change(ctx, n, func(o resource.Object) {
		o.SetOwnerReferences(slices.DeleteFunc(o.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return gone[ref.UID] }))
	})
}

// unblock lets the owners of an object go before it.
func (c *collector) unblock(ctx context.Context, n *node) error {
	return c.change(ctx, n, func(o resource.Object) {
		owners := slices.Clone(o.GetOwnerReferences())
		for i := range owners {
			owners[i].BlockOwnerDeletion = new(bool)
		}
		o.SetOwnerReferences(owners)
	})
}

func (c *collector) dropFinalizer(ctx context.Context, n *node, finalizer string) error {
	return c.change(ctx, n, func(o resource.Object) {
		o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == finalizer }))
	})
}

// change updates the present object if it still is the one that n stands for.
func (c *collector) change(ctx context.Context, n *node, f func(resource.Object)) error {
	res, err := c.client.Transport().Do(ctx, &call.Request{Verb: "get", Kind: n.kind, Namespace: n.key.Namespace, Name: n.key.Name})
	if err != nil {
		return err
	}
	if res.Object.GetUID() != n.uid {
		return nil
	}
	next := res.Object.DeepCopyObject().(resource.Object)
	f(next)
	_, err = c.client.Transport().Do(ctx, &call.Request{
		Verb: "update", Kind: n.kind, Namespace: n.key.Namespace, Name: n.key.Name, Object: next,
	})
	return err
}
