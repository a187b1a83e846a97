// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, for its rules, connections, settings and listeners.
type Namespace struct {
	// Path is the namespace's file; empty is the namespace of this process.
	Path string
}

// Apply runs nft.
func (n Namespace) Apply(ctx context.Context, script string) error {
	_, err := n.run(ctx, script, "nft", "-f", "-")
	return err
}

// Tables returns the names of the tables of family ip.
func (n Namespace) Tables(ctx context.Context) ([]string, error) {
	out, err := n.run(ctx, "", "nft", "list", "tables", "ip")
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "table ip "); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// Forget deletes the entries of stale UDP connections.
func (n Namespace) Forget(stale func(front, endpoint netip.AddrPort) bool) error {
	var handle *netlink.Handle
	err := n.Inside(func() (err error) {
		handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return err
	}
	defer handle.Close()
	_, err = handle.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flowFilter(stale))
	return err
}

// flowFilter matches UDP connections by where they were sent and where they went.
type flowFilter func(front, endpoint netip.AddrPort) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	front, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	endpoint, fine := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && fine &&
		f(netip.AddrPortFrom(front.Unmap(), flow.Forward.DstPort), netip.AddrPortFrom(endpoint.Unmap(), flow.Reverse.SrcPort))
}

// Set changes a kernel setting, such as net/ipv4/ip_forward, and returns what it was.
func (n Namespace) Set(key, value string) (was string, err error) {
	file := "/proc/sys/" + key
	err = n.Inside(func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if was = strings.TrimSpace(string(b)); was == value {
			return nil
		}
		return os.WriteFile(file, []byte(value), 0o644)
	})
	return was, err
}

// FilterBridges makes packets that a bridge passes on go through the rules; it loads the kernel's module for that.
func (n Namespace) FilterBridges(ctx context.Context) error {
	const key = "net/bridge/bridge-nf-call-iptables"
	_, err := n.Set(key, "1")
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if out, err := exec.CommandContext(ctx, "modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe br_netfilter: %w: %s", err, bytes.TrimSpace(out))
	}
	_, err = n.Set(key, "1")
	return err
}

// Route makes a range of addresses that no interface has reachable for programs of the namespace, which send from the address src, so that
// rules get to see it: without a route, there is no packet. undo takes it back.
func (n Namespace) Route(to netip.Prefix, src netip.Addr) (undo func() error, err error) {
	err = n.Inside(func() error {
		route, err := routeTo(to)
		if err != nil {
			return err
		}
		route.Src = src.AsSlice()
		return netlink.RouteReplace(route)
	})
	if err != nil {
		return nil, fmt.Errorf("route to %s: %w", to, err)
	}
	return func() error { return n.Unroute(to) }, nil
}

// Unroute removes the route that Route made; one that is gone with the network is no error.
func (n Namespace) Unroute(to netip.Prefix) error {
	err := n.Inside(func() error {
		route, err := routeTo(to)
		if err != nil {
			return err
		}
		return netlink.RouteDel(route)
	})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to %s: %w", to, err)
	}
	return nil
}

// routeTo is the route to a range by way of loopback.
func routeTo(to netip.Prefix) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: to.Masked().Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)},
	}, nil
}

// Listen opens a TCP listener.
func (n Namespace) Listen(ctx context.Context, address string) (l net.Listener, err error) {
	err = n.Inside(func() (err error) {
		var config net.ListenConfig
		l, err = config.Listen(ctx, "tcp4", address)
		return err
	})
	return l, err
}

// Inside runs f on a thread in the namespace.
func (n Namespace) Inside(f func() error) error {
	if n.Path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, with its namespace, ends with this goroutine
		h, err := netns.GetFromPath(n.Path)
		if err == nil {
			err = netns.Set(h)
			h.Close()
		}
		if err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", n.Path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (n Namespace) run(ctx context.Context, input string, args ...string) (string, error) {
	name := args[0]
	if n.Path != "" {
		args = append([]string{"nsenter", "--net=" + n.Path, "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var output, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &problem
	if err := cmd.Run(); err != nil {
		text := problem.String()
		if len(text) > 2000 {
			text = text[:2000] + "..."
		}
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(text))
	}
	return output.String(), nil
}
