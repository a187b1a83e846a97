// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package nodenet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that Routes made, so that it finds them again.
const routeProtocol netlink.RouteProtocol = 75

// Routes makes this machine's routes to pods on other machines match want, which says behind which address each range is.
// What is within the range of all pods and was made by an earlier call, and is not wanted any more, goes. Addresses must be on
// a network that this machine is on.
func Routes(within netip.Prefix, want map[netip.Prefix]netip.Addr) error {
	have, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var problems []error
	done := map[netip.Prefix]bool{}
	for _, r := range have {
		if r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		to := netip.PrefixFrom(a.Unmap(), bits)
		if !within.Contains(to.Addr()) || to.Bits() < within.Bits() {
			continue // another cluster's
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		if wanted, ok := want[to]; ok && wanted == via.Unmap() {
			done[to] = true
			continue
		}
		if _, ok := want[to]; ok {
			continue // replaced below
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			problems = append(problems, fmt.Errorf("remove the route to %s: %w", to, err))
		}
	}
	order := func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) }
	for _, to := range slices.SortedFunc(maps.Keys(want), order) {
		if !done[to] {
			problems = append(problems, route(to, want[to], routeProtocol))
		}
	}
	return errors.Join(problems...)
}
