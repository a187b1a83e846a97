// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package nodenet builds the network under the nodes of one machine.
//
// There is one bridge, with the machine's own address on it; the API server and the DNS server answer there. With one node,
// the node is the machine itself. With several, each is a network namespace joined to the bridge, with routes to the
// pod ranges of the others, so that traffic between pods of different nodes is routed, not translated, as it would be between machines.
//
// Up makes the machine match a Plan and may be repeated; Down removes what Up made. Linux only, root only.
package nodenet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Plan is the desired network.
type Plan struct {
	// ID tells clusters of one machine apart; it goes into link and namespace names.
	ID string
	// Nodes is the range of node addresses; the first is the machine's. Pods is the range of pod addresses.
	Nodes, Pods netip.Prefix
	// Namespaced are the nodes that get a network namespace; empty if the machine itself is the node.
	Namespaced []Node
	// RunDir holds the namespace files.
	RunDir string
}

// Node is one node in a network namespace.
type Node struct {
	Name    string
	Address netip.Addr
	Pods    netip.Prefix
}

// ID derives a short name from what is unique to a cluster, such as its data directory.
func ID(unique string) string {
	h := fnv.New32a()
	h.Write([]byte(unique))
	return hex.EncodeToString(h.Sum(nil))[:6]
}

// Gateway is the machine's address on the bridge.
func (p Plan) Gateway() netip.Addr { return p.Nodes.Masked().Addr().Next() }

// Bridge is the name of the bridge link.
func (p Plan) Bridge() string { return "knarr-" + p.ID }

// Path is the file of a node's network namespace.
func (p Plan) Path(n Node) string { return filepath.Join(p.RunDir, "netns", n.Name) }

// Up makes the network.
func (p Plan) Up() error {
	if err := forwarding(); err != nil {
		return err
	}
	if err := Free(p.ID, map[string]netip.Prefix{"node": p.Nodes, "pod": p.Pods}); err != nil {
		return err
	}
	bridge, err := p.bridge()
	if err != nil {
		return fmt.Errorf("bridge %s: %w", p.Bridge(), err)
	}
	for i, n := range p.Namespaced {
		if err := p.node(i, n, bridge); err != nil {
			return fmt.Errorf("network of node %s: %w", n.Name, err)
		}
		if err := route(n.Pods, n.Address, unix.RTPROT_BOOT); err != nil {
			return fmt.Errorf("route to pods of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// Down removes the network; what is gone already is no error.
func (p Plan) Down() error {
	var problems []error
	for i, n := range p.Namespaced {
		file := p.Path(n)
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			problems = append(problems, fmt.Errorf("unmount %s: %w", file, err))
		}
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			problems = append(problems, err)
		}
		if l, err := netlink.LinkByName(p.veth(i)); err == nil {
			problems = append(problems, netlink.LinkDel(l))
		}
	}
	if l, err := netlink.LinkByName(p.Bridge()); err == nil {
		problems = append(problems, netlink.LinkDel(l))
	}
	return errors.Join(problems...)
}

// Free tells whether somebody else than the cluster of an ID has addresses of these ranges, which are by what they are for: another
// cluster, or one that was killed. Packets would go there.
func Free(id string, ranges map[string]netip.Prefix) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		name := l.Attrs().Name
		if strings.Contains(name, id) {
			continue
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", name, err)
		}
		for _, a := range addresses {
			ip, _ := netip.AddrFromSlice(a.IP.To4())
			for _, what := range slices.Sorted(maps.Keys(ranges)) {
				if r := ranges[what]; r.Contains(ip) {
					return fmt.Errorf("%s addresses %s: link %s has %s of them. Is there another cluster, or one that was killed? Choose other addresses, or end it: knarr down --data-dir ITS-DIRECTORY", what, r, name, a.IPNet)
				}
			}
		}
	}
	return nil
}

func (p Plan) veth(i int) string { return fmt.Sprintf("kn%s-%d", p.ID, i) }

func forwarding() error {
	for _, key := range []string{"net/ipv4/ip_forward"} {
		if err := os.WriteFile("/proc/sys/"+key, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	return nil
}

func (p Plan) bridge() (netlink.Link, error) {
	link, err := netlink.LinkByName(p.Bridge())
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = p.Bridge()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, err
		}
		if link, err = netlink.LinkByName(p.Bridge()); err != nil {
			return nil, err
		}
	}
	if err := address(link, p.Gateway(), p.Nodes.Bits()); err != nil {
		return nil, err
	}
	return link, netlink.LinkSetUp(link)
}

func (p Plan) node(i int, n Node, bridge netlink.Link) error {
	file := p.Path(n)
	if err := ensureNamespace(file); err != nil {
		return err
	}
	handle, err := netns.GetFromPath(file)
	if err != nil {
		return err
	}
	defer handle.Close()
	if _, err := netlink.LinkByName(p.veth(i)); err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = p.veth(i), bridge.Attrs().Index
		pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(handle))}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
	}
	host, err := netlink.LinkByName(p.veth(i))
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return err
	}
	return Inside(file, func() error { return p.inside(n) })
}

// inside configures the node's end; it runs in the node's namespace.
func (p Plan) inside(n Node) error {
	if err := forwarding(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := address(eth, n.Address, p.Nodes.Bits()); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(eth); err != nil {
		return err
	}
	if err := route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), p.Gateway(), unix.RTPROT_BOOT); err != nil {
		return err
	}
	for _, other := range p.Namespaced {
		if other.Name == n.Name {
			continue
		}
		if err := route(other.Pods, other.Address, unix.RTPROT_BOOT); err != nil {
			return err
		}
	}
	return nil
}

func address(link netlink.Link, a netip.Addr, bits int) error {
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

func route(to netip.Prefix, via netip.Addr, by netlink.RouteProtocol) error {
	r := &netlink.Route{Protocol: by, Gw: via.AsSlice(), Dst: &net.IPNet{IP: to.Masked().Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)}}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s via %s: %w", to, via, err)
	}
	return nil
}

// ensureNamespace makes a network namespace that lives as long as its file.
func ensureNamespace(file string) error {
	if h, err := netns.GetFromPath(file); err == nil {
		defer h.Close()
		var fs unix.Statfs_t
		if unix.Statfs(file, &fs) == nil && fs.Type == unix.NSFS_MAGIC {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, with its namespace, ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- fmt.Errorf("unshare: %w", err)
			return
		}
		if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
			made <- fmt.Errorf("bind %s: %w", file, err)
			return
		}
		made <- nil
	}()
	return <-made
}

// Inside runs f in the network namespace of file, on a thread of its own.
func Inside(file string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: see ensureNamespace
		h, err := netns.GetFromPath(file)
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		if err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", file, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Listen opens a TCP listener in the network namespace of file, or in the current one if it is empty.
func Listen(file, addr string) (net.Listener, error) {
	if file == "" {
		return net.Listen("tcp", addr)
	}
	var l net.Listener
	err := Inside(file, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}
