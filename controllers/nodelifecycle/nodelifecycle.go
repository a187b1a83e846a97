// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodelifecycle notices nodes that no longer report: it turns their conditions to Unknown, taints them, and deletes the
// pods that do not tolerate the taints, each after the time that it tolerates them.
//
// See https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller.
package nodelifecycle

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/coordination"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

const (
	// grace is how long a node may be silent.
	grace = 50 * time.Second
	// startupGrace is how long a node may be silent after this loop first saw it.
	startupGrace = 60 * time.Second
	// leases of nodes are here.
	leaseNamespace = corev1.NamespaceNodeLease
)

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"delete", "get", "list", "patch", "update", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status", "pods/status"}, Verbs: []string{"patch", "update"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"delete", "get", "list", "watch"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "get", "patch", "update"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := &reconciler{
		nodes: client.Of(c, core.Nodes), pods: client.Of(c, core.Pods), leases: client.Of(c, coordination.Leases),
		now: time.Now, heard: map[string]heard{},
		events: controller.NewRecorder(c, "node-controller"),
	}
	return controller.Controller{
		Name: "node", For: core.Nodes.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{{Kind: core.Pods.Kind, Keys: func(obj, old resource.Object) []client.Key {
			if obj == nil {
				return nil
			}
			node := core.Pods.Cast(obj).Spec.NodeName
			if node == "" || old != nil && core.Pods.Cast(old).Spec.NodeName == node {
				return nil
			}
			return []client.Key{{Name: node}}
		}}},
	}
}

type reconciler struct {
	nodes  client.Resource[corev1.Node]
	pods   client.Resource[corev1.Pod]
	leases client.Resource[coordinationv1.Lease]
	events *controller.Recorder
	now    func() time.Time

	mu    sync.Mutex
	heard map[string]heard // by node
}

// heard is the last sign of life of a node, by this loop's own clock: nodes' clocks may differ.
type heard struct {
	at    time.Time
	renew metav1.MicroTime
	ready metav1.Time
}

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	nodes, err := r.nodes.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	n := nodes.Get(key)
	if n == nil {
		r.mu.Lock()
		delete(r.heard, key.Name)
		r.mu.Unlock()
		return 0, nil
	}
	leases, err := r.leases.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	now := r.now()
	silent, left := r.silence(n, leases.Get(client.Key{Namespace: leaseNamespace, Name: n.Name}), now)
	if silent {
		if n, err = r.lost(ctx, n, now); err != nil {
			return 0, err
		}
	}
	if n, err = r.taint(ctx, n, now); err != nil {
		return 0, err
	}
	wait, err := r.evict(ctx, n, now)
	return sooner(left, wait), err
}

func sooner(a, b time.Duration) time.Duration {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}

// silence tells whether a node was silent too long, and otherwise when it would have been.
func (r *reconciler) silence(n *corev1.Node, l *coordinationv1.Lease, now time.Time) (bool, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, known := r.heard[n.Name]
	limit := grace
	sign := h
	if c := conditionOf(n, corev1.NodeReady); c != nil {
		sign.ready = c.LastHeartbeatTime
	}
	if l != nil && l.Spec.RenewTime != nil {
		sign.renew = *l.Spec.RenewTime
	}
	if !known || sign.renew != h.renew || sign.ready != h.ready {
		sign.at = now
		r.heard[n.Name] = sign
		if !known {
			limit = startupGrace
		}
		return false, limit
	}
	if left := limit - now.Sub(h.at); left > 0 {
		return false, left
	}
	return true, 5 * time.Second
}

func conditionOf(n *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == kind {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// lost says that nobody knows how the node is, and that its pods are not ready.
func (r *reconciler) lost(ctx context.Context, n *corev1.Node, now time.Time) (*corev1.Node, error) {
	next := n.DeepCopy()
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := conditionOf(next, kind)
		switch {
		case c == nil:
			next.Status.Conditions = append(next.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	if equality.Semantic.DeepEqual(next.Status, n.Status) {
		return n, nil
	}
	updated, err := r.nodes.UpdateStatus(ctx, next)
	if err != nil {
		return n, err
	}
	r.mu.Lock()
	if h := r.heard[n.Name]; conditionOf(updated, corev1.NodeReady) != nil { // our own write is no sign of life
		h.ready = conditionOf(updated, corev1.NodeReady).LastHeartbeatTime
		r.heard[n.Name] = h
	}
	r.mu.Unlock()
	r.events.Normal(ctx, core.Nodes.Kind, n, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
	return updated, r.podsNotReady(ctx, n.Name, now)
}

func (r *reconciler) podsNotReady(ctx context.Context, node string, now time.Time) error {
	view, err := r.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	var problems []error
	for p := range view.All("") {
		if p.Spec.NodeName != node {
			continue
		}
		next := p.DeepCopy()
		changed := false
		for i := range next.Status.Conditions {
			if c := &next.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				c.Status, c.LastTransitionTime, changed = corev1.ConditionFalse, metav1.NewTime(now), true
			}
		}
		if changed {
			if _, err := r.pods.UpdateStatus(ctx, next); !apierrors.IsNotFound(err) {
				problems = append(problems, err)
			}
		}
	}
	return errors.Join(problems...)
}

// owned are the taints that this loop keeps.
var owned = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeUnschedulable, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable,
}

// Taints are the taints that follow from a node's conditions.
func Taints(n *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	if c := conditionOf(n, corev1.NodeReady); c != nil && c.Status != corev1.ConditionTrue {
		key := corev1.TaintNodeNotReady
		if c.Status == corev1.ConditionUnknown {
			key = corev1.TaintNodeUnreachable
		}
		taints = append(taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
	} else if c == nil {
		taints = append(taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	for _, pair := range []struct {
		kind  corev1.NodeConditionType
		taint string
	}{
		{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure}, {corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{corev1.NodePIDPressure, corev1.TaintNodePIDPressure}, {corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
	} {
		if c := conditionOf(n, pair.kind); c != nil && c.Status == corev1.ConditionTrue {
			taints = append(taints, corev1.Taint{Key: pair.taint, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if n.Spec.Unschedulable {
		taints = append(taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	return taints
}

// taint makes the node's own taints those that follow from its conditions; others stay.
func (r *reconciler) taint(ctx context.Context, n *corev1.Node, now time.Time) (*corev1.Node, error) {
	want := Taints(n)
	var next []corev1.Taint
	for _, t := range n.Spec.Taints {
		mine := slices.Contains(owned, t.Key)
		i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.Key == t.Key && w.Effect == t.Effect })
		if i >= 0 {
			want = slices.Delete(want, i, i+1)
		}
		if !mine || i >= 0 {
			next = append(next, t)
		}
	}
	for _, t := range want {
		if t.Effect == corev1.TaintEffectNoExecute {
			t.TimeAdded = &metav1.Time{Time: now}
		}
		next = append(next, t)
	}
	if equality.Semantic.DeepEqual(next, n.Spec.Taints) {
		return n, nil
	}
	changed := n.DeepCopy()
	changed.Spec.Taints = next
	return r.nodes.Update(ctx, changed)
}

// evict deletes the pods whose toleration of the node's NoExecute taints is over, and returns when the next is.
func (r *reconciler) evict(ctx context.Context, n *corev1.Node, now time.Time) (time.Duration, error) {
	if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }) {
		return 0, nil
	}
	view, err := r.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	var wait time.Duration
	var problems []error
	for p := range view.All("") {
		if p.Spec.NodeName != n.Name || p.DeletionTimestamp != nil {
			continue
		}
		left, evicts := Tolerated(p, n.Spec.Taints, now)
		switch {
		case !evicts:
		case left > 0:
			wait = sooner(wait, left)
		default:
			r.events.Normal(ctx, core.Pods.Kind, p, "TaintManagerEviction", "Marking for deletion Pod %s/%s", p.Namespace, p.Name)
			err := r.pods.Delete(ctx, client.KeyOf(p), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
			if err != nil && !apierrors.IsNotFound(err) {
				problems = append(problems, err)
			}
		}
	}
	return wait, errors.Join(problems...)
}

// Tolerated is how long a pod may stay; evicts is false if it may stay for ever.
func Tolerated(p *corev1.Pod, taints []corev1.Taint, now time.Time) (left time.Duration, evicts bool) {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		tolerated, seconds := false, int64(-1)
		for _, tol := range p.Spec.Tolerations {
			if !matches(&tol, t) {
				continue
			}
			tolerated = true
			if tol.TolerationSeconds != nil && (seconds < 0 || *tol.TolerationSeconds < seconds) {
				seconds = max(0, *tol.TolerationSeconds)
			}
		}
		since := now
		if t.TimeAdded != nil {
			since = t.TimeAdded.Time
		}
		this := time.Duration(seconds)*time.Second - now.Sub(since)
		switch {
		case !tolerated:
			return 0, true
		case seconds < 0:
		case !evicts || this < left:
			left, evicts = this, true
		}
	}
	return max(0, left), evicts
}

func matches(tol *corev1.Toleration, t *corev1.Taint) bool {
	if tol.Effect != "" && tol.Effect != t.Effect || tol.Key != "" && tol.Key != t.Key {
		return false
	}
	return tol.Operator == corev1.TolerationOpExists || tol.Key != "" && tol.Value == t.Value
}
