// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodeipam gives each node that has none a range of pod addresses out of the cluster's.
//
// Nodes that run in the server's own process bring their ranges with them, counted from the low end; this loop counts from
// the high end, so that they do not meet while both are few. A range in use by a Node object is never given again while
// that object exists.
package nodeipam

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// bits is the length of a node's prefix.
const bits = 24

// ErrFull means that every range is in use.
var ErrFull = errors.New("no range of pod addresses is free")

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "update", "watch"}},
	}
}

// New returns the loop; cluster is the range that nodes' ranges come from.
func New(c *client.Client, cluster netip.Prefix) controller.Controller {
	r := &reconciler{nodes: client.Of(c, core.Nodes), cluster: cluster, now: time.Now}
	return controller.Controller{Name: "nodeipam", For: core.Nodes.Kind, Needs: Needs(), Reconcile: r.reconcile}
}

type reconciler struct {
	nodes   client.Resource[corev1.Node]
	cluster netip.Prefix
	now     func() time.Time

	mu   sync.Mutex // held from choosing a range until the view shows it
	full time.Time  // until then no range is looked for: none was free
}

// again is how soon a full cluster is looked at again.
const again = time.Minute

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	view, err := r.nodes.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	node := view.Get(key)
	if node == nil || node.Spec.PodCIDR != "" || node.DeletionTimestamp != nil || !r.cluster.IsValid() {
		return 0, nil
	}
	if left := r.full.Sub(r.now()); left > 0 {
		return left, nil
	}
	var used []netip.Prefix
	for n := range view.All("") {
		for _, s := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
			if p, err := netip.ParsePrefix(s); err == nil {
				used = append(used, p)
			}
		}
	}
	free, err := last(r.cluster, used)
	if err != nil {
		r.full = r.now().Add(again)
		return again, nil
	}
	next := node.DeepCopy()
	next.Spec.PodCIDR, next.Spec.PodCIDRs = free.String(), []string{free.String()}
	_, err = r.nodes.Update(ctx, next)
	return 0, err
}

// last is the highest range of a cluster that overlaps none that is used.
func last(cluster netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	cluster = cluster.Masked()
	if !cluster.Addr().Is4() || cluster.Bits() > bits {
		return netip.Prefix{}, ErrFull
	}
	base := cluster.Addr().As4()
	first := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8
	for i := 1<<(bits-cluster.Bits()) - 1; i >= 0; i-- {
		n := first + uint32(i)<<8
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), 0}), bits)
		taken := false
		for _, u := range used {
			taken = taken || u.Overlaps(p)
		}
		if !taken {
			return p, nil
		}
	}
	return netip.Prefix{}, ErrFull
}
