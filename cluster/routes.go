// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/internal/nodenet"
)

// router keeps this machine's routes to the pods of other machines' nodes.
type router struct {
	client *client.Client
	log    *slog.Logger
	// self is this machine's own node, or empty.
	self string
	// pods is the range of all pods. Nodes with addresses in local are on one machine, which leads to them itself.
	pods, local netip.Prefix
	// keep leaves the routes in place at the end.
	keep bool
}

// routesAgain is how soon routes that could not be made are tried again.
const routesAgain = time.Minute

// startRoutes leads from this machine to the pods of machines that joined.
func (c *Cluster) startRoutes(context.Context) error {
	if _, ok := c.outside(); !ok || os.Geteuid() != 0 {
		return nil // nobody joins a server that nobody reaches; without root there are no pods here that need routes
	}
	r := &router{
		client: c.Client(call.Identity{Name: "system:kube-proxy", Groups: []string{"system:authenticated"}}), log: c.log,
		pods: netip.MustParsePrefix(c.config.PodCIDR), local: netip.MustParsePrefix(c.config.NodeCIDR), keep: c.config.KeepPods,
	}
	if c.config.Nodes == 1 {
		r.self = c.nodeName(0)
	}
	c.parts.run("routes", r.run)
	return nil
}

// run follows the nodes until ctx ends.
func (r *router) run(ctx context.Context) error {
	nodes, err := client.Of(r.client, core.Nodes).View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	wake := make(chan struct{}, 1)
	changed := func(obj, old *corev1.Node) {
		if maps.Equal(r.routesTo(obj), r.routesTo(old)) {
			return // a heartbeat
		}
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	group.Go(func() { cancel(nodes.Subscribe(ctx, changed, func() {})) })
	var last string
	for {
		var again <-chan time.Time
		err := nodenet.Routes(r.pods, podRoutes(nodes.All(""), r.self, r.local))
		if err != nil {
			again = time.After(routesAgain)
			if text := err.Error(); text != last { // once for each problem
				r.log.Error("pods of some nodes are not reached from here: their machines need to be on the same network", "err", err)
				last = text
			}
		} else {
			last = ""
		}
		select {
		case <-ctx.Done():
			if !r.keep {
				if err := nodenet.Routes(r.pods, nil); err != nil {
					r.log.Warn("routes stay behind", "err", err)
				}
			}
			return context.Cause(ctx)
		case <-wake:
		case <-again:
		}
	}
}

func (r *router) routesTo(n *corev1.Node) map[netip.Prefix]netip.Addr {
	if n == nil {
		return nil
	}
	return podRoutes(slices.Values([]*corev1.Node{n}), r.self, r.local)
}

// podRoutes says behind which address the pods of each node are, seen from the node self. Nodes with addresses in local are
// left out.
func podRoutes(nodes iter.Seq[*corev1.Node], self string, local netip.Prefix) map[netip.Prefix]netip.Addr {
	routes := map[netip.Prefix]netip.Addr{}
	for n := range nodes {
		pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil || n.Name == self {
			continue
		}
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if a.Type == corev1.NodeInternalIP && err == nil && ip.Is4() && !local.Contains(ip) {
				routes[pods.Masked()] = ip
				break
			}
		}
	}
	return routes
}
