// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"

	"knarr.dev/api/call"
	"knarr.dev/proxy"
)

// startProxies makes Services work on every real node and, if those have network namespaces of their own, on the machine
// around them, so that its users reach cluster addresses and node ports too.
func (c *Cluster) startProxies(context.Context) error {
	if len(c.network.Namespaced) == 0 {
		address, err := c.nodeAddress(0)
		if err != nil {
			return err
		}
		c.startProxy(proxy.Config{NodeName: c.nodeName(0), NodeIPs: []netip.Addr{address, c.network.Gateway(), loopback()}})
		return nil
	}
	for i, n := range c.network.Namespaced {
		c.startProxy(proxy.Config{NodeName: c.nodeName(i), NodeIPs: []netip.Addr{n.Address}, NetNS: c.network.Path(n)})
	}
	c.startProxy(proxy.Config{NodeIPs: []netip.Addr{c.network.Gateway(), loopback()}})
	return nil
}

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

func (c *Cluster) startProxy(config proxy.Config) {
	name := config.NodeName
	if name == "" {
		name = "the machine"
	}
	config.PodCIDR, config.NodeCIDR, config.ServiceCIDR = c.network.Pods, c.network.Nodes, c.serviceRange()
	config.Table = "knarr-proxy-" + c.network.ID
	config.Keep = c.config.KeepPods
	caller := c.Client(call.Identity{Name: "system:kube-proxy", Groups: []string{"system:authenticated"}})
	p := proxy.New(config, caller, c.log.With("node", name))
	c.parts.run("service proxy of "+name, p.Run)
}
