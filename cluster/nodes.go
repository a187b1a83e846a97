// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"knarr.dev/api/call"
	"knarr.dev/node"
	"knarr.dev/node/image"
)

// startNodes starts the agents of this machine's nodes and waits until they are registered.
func (c *Cluster) startNodes(ctx context.Context) error {
	var agents []*node.Agent
	for i := range c.config.Nodes {
		a, err := c.startNode(i)
		if err != nil {
			return fmt.Errorf("node %s: %w", c.nodeName(i), err)
		}
		agents = append(agents, a)
	}
	for i, a := range agents {
		select {
		case <-a.Ready():
		case <-c.parts.done:
			return c.parts.stop()
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, file := range c.config.Images {
			if err := image.Import(ctx, a.Socket(), file); err != nil {
				return fmt.Errorf("node %s: %w", c.nodeName(i), err)
			}
		}
	}
	return nil
}

func (c *Cluster) startNode(i int) (*node.Agent, error) {
	name := c.nodeName(i)
	config, err := c.nodeConfig(i)
	if err != nil {
		return nil, err
	}
	address, err := netip.ParseAddr(config.NodeIP)
	if err != nil {
		return nil, err
	}
	serving, err := c.kubeletTLS(name, address)
	if err != nil {
		return nil, err
	}
	config.Serving = serving
	identity := call.Identity{Name: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"}}
	agent, err := node.New(config, c.Client(identity), c.log.With("node", name))
	if err != nil {
		return nil, err
	}
	c.parts.run("node "+name, agent.Run)
	return agent, nil
}

// nodeConfig is the configuration of real node number i, without its certificate.
func (c *Cluster) nodeConfig(i int) (node.Config, error) {
	address, err := c.nodeAddress(i)
	if err != nil {
		return node.Config{}, err
	}
	name := c.nodeName(i)
	config := node.Config{
		Name: name, DataDir: filepath.Join(c.config.DataDir, "nodes", name), NodeIP: address.String(),
		PodCIDR: podRange(c.network.Pods, i), Bridge: fmt.Sprintf("kp%s-%d", c.network.ID, i),
		ContainerdSocket: c.config.ContainerRuntimeEndpoint, ClusterDNS: c.config.ClusterDNS, ClusterDomain: c.config.ClusterDomain,
		Port: c.config.KubeletPort, KeepPods: c.config.KeepPods, EvictionHard: c.config.EvictionHard, Version: KubernetesVersion,
	}
	if len(c.network.Namespaced) > 0 {
		config.NetNS = c.network.Path(c.network.Namespaced[i])
	}
	return config, nil
}

// nodeAddress is the address of real node number i: its own in its namespace, or the machine's, on the network on which others
// reach the API server if they do.
func (c *Cluster) nodeAddress(i int) (netip.Addr, error) {
	if len(c.network.Namespaced) > 0 {
		return c.network.Namespaced[i].Address, nil
	}
	if address, ok := c.outside(); ok && address.Is4() {
		return address, nil
	}
	if address, ok := MachineAddress(""); ok {
		return address, nil
	}
	return c.network.Gateway(), nil
}

// MachineAddress is the address that this machine uses towards a host, or towards the world if that is empty; false if it
// has none that others reach.
func MachineAddress(host string) (netip.Addr, bool) {
	if host == "" {
		host = "192.0.2.1"
	}
	conn, err := net.Dial("udp4", net.JoinHostPort(host, "9")) // sends nothing: it only asks for a route
	if err != nil {
		return netip.Addr{}, false
	}
	defer conn.Close()
	ip := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	return ip, !ip.IsLoopback() && !ip.IsUnspecified()
}

// kubeletTLS is the agent's side of TLS: only the API server may ask.
func (c *Cluster) kubeletTLS(name string, address netip.Addr) (*tls.Config, error) {
	certificate, key, err := c.pki.IssueServing(name, []string{name}, []net.IP{address.AsSlice()})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pki.ClientCAs(),
	}, nil
}
