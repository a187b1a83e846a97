// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"knarr.dev/api/call"
	"knarr.dev/client"
	"knarr.dev/node/simulated"
)

// Simulated nodes have addresses that nothing answers at. If PodCIDR has not enough ranges for all of them, theirs come
// from the space that is shared between providers (RFC 6598), of which no cluster here makes use otherwise.
const (
	sharedSpace        = "100.64.0.0/10"
	firstSimulatedNode = 1024 // number of its address in NodeCIDR, past those of real nodes
)

// startSimulated starts the simulated nodes and waits until they are registered.
func (c *Cluster) startSimulated(ctx context.Context) error {
	config := simulated.Config{Version: KubernetesVersion, Delays: c.config.SimulatedDelays}
	for i := range c.config.SimulatedNodes {
		n, err := c.simulatedNode(i)
		if err != nil {
			return err
		}
		config.Nodes = append(config.Nodes, n)
	}
	watcher := c.Client(call.Identity{
		Name:   "system:serviceaccount:kube-system:" + simulated.Account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:kube-system"},
	})
	as := func(node string) *client.Client {
		return c.Client(call.Identity{Name: "system:node:" + node, Groups: []string{"system:nodes"}})
	}
	fleet := simulated.New(config, watcher, as, c.log)
	c.parts.run("simulated nodes", fleet.Run)
	select {
	case <-fleet.Ready():
		return nil
	case <-c.parts.done:
		return c.parts.stop()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// simulatedNode describes simulated node number i.
func (c *Cluster) simulatedNode(i int) (simulated.Node, error) {
	nodes, pods := netip.MustParsePrefix(c.config.NodeCIDR), netip.MustParsePrefix(c.config.PodCIDR)
	number := c.config.Nodes + i
	if c.config.Nodes+c.config.SimulatedNodes > 1<<(24-pods.Bits()) {
		pods, number = netip.MustParsePrefix(sharedSpace), i
	}
	n := simulated.Node{Name: fmt.Sprintf("simulated-%d", i+1), PodCIDR: podRange(pods, number)}
	n.IP = offset(nodes.Masked().Addr(), firstSimulatedNode+i)
	if !nodes.Contains(n.IP) {
		return n, fmt.Errorf("nodeCIDR %s has no address for simulated node %d", nodes, i+1)
	}
	return n, nil
}

// offset is the IPv4 address n after a.
func offset(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}
