// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net/netip"
	"time"

	"knarr.dev/api/call"
	"knarr.dev/dns"
	"knarr.dev/proxy"
)

// startProxies makes Services work on every real node and, if those have network namespaces of their own, on the machine
// around them, so that its users reach cluster addresses and node ports too.
func (c *Cluster) startProxies(context.Context) error {
	all, err := c.proxyConfigs()
	if err != nil {
		return err
	}
	for _, config := range all {
		c.startProxy(config)
	}
	return nil
}

// proxyConfigs are the configurations of all proxies of this machine, the machine's own one last.
func (c *Cluster) proxyConfigs() ([]proxy.Config, error) {
	var all []proxy.Config
	if len(c.network.Namespaced) == 0 {
		address, err := c.nodeAddress(0)
		if err != nil {
			return nil, err
		}
		all = append(all, proxy.Config{NodeName: c.nodeName(0), NodeIPs: []netip.Addr{address, c.network.Gateway(), loopback()}})
	} else {
		for i, n := range c.network.Namespaced {
			all = append(all, proxy.Config{NodeName: c.nodeName(i), NodeIPs: []netip.Addr{n.Address}, NetNS: c.network.Path(n)})
		}
		all = append(all, proxy.Config{NodeIPs: []netip.Addr{c.network.Gateway(), loopback()}})
	}
	for i := range all {
		all[i].PodCIDR, all[i].NodeCIDR, all[i].ServiceCIDR = c.network.Pods, c.network.Nodes, c.serviceRange()
		all[i].Table, all[i].Keep = "knarr-proxy-"+c.network.ID, c.config.KeepPods
	}
	return all, nil
}

func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

func (c *Cluster) startProxy(config proxy.Config) {
	name := config.NodeName
	if name == "" {
		name = "the machine"
	}
	caller := c.Client(call.Identity{Name: "system:kube-proxy", Groups: []string{"system:authenticated"}})
	p := proxy.New(config, caller, c.log.With("node", name))
	c.parts.run("service proxy of "+name, p.Run)
}

// dnsCheck is how often the Service of the DNS server is put right if somebody changed it.
const dnsCheck = time.Minute

// outsidePort is where DNS answers other machines; 53 is often taken by a resolver of the machine.
const outsidePort = 10053

// dnsAddresses are where DNS answers: to the nodes of this machine on the bridge, to those of others at its address. The last
// one is what the Service leads to.
func (c *Cluster) dnsAddresses() []netip.AddrPort {
	var listen []netip.AddrPort
	if c.config.Nodes > 0 {
		listen = append(listen, netip.AddrPortFrom(c.network.Gateway(), 53))
	}
	if ip, ok := c.outside(); ok && ip.Is4() {
		listen = append(listen, netip.AddrPortFrom(ip, outsidePort))
	}
	return listen
}

// startDNS answers DNS questions at this machine's addresses, which pods reach through the Service kube-dns.
func (c *Cluster) startDNS(ctx context.Context) error {
	listen := c.dnsAddresses()
	if len(listen) == 0 {
		return nil // no pod could ask
	}
	upstreams, err := dns.Upstreams("/etc/resolv.conf")
	if err != nil {
		c.log.Warn("only names of the cluster are known to its DNS", "err", err)
	}
	pods, nodes := netip.MustParsePrefix(c.config.PodCIDR), netip.MustParsePrefix(c.config.NodeCIDR)
	caller := c.Client(serviceAccount(dns.Account))
	server := dns.New(dns.Config{
		Listen: listen, Domain: c.config.ClusterDomain,
		Ranges: []netip.Prefix{pods, nodes, c.serviceRange()}, Upstreams: upstreams,
	}, caller, c.log)
	c.parts.run("DNS", server.Run)
	select {
	case <-server.Ready():
	case <-c.parts.done:
		return c.parts.stop()
	case <-ctx.Done():
		return ctx.Err()
	}
	address, endpoint := netip.MustParseAddr(c.config.ClusterDNS), listen[len(listen)-1]
	if err := dns.Publish(ctx, caller, address, endpoint); err != nil {
		return err
	}
	c.parts.run("DNS service", func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(dnsCheck):
			}
			if err := dns.Publish(ctx, caller, address, endpoint); err != nil && ctx.Err() == nil {
				c.log.Warn("the Service of DNS is not as it should be", "err", err, "again", dnsCheck)
			}
		}
	})
	return nil
}
