// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"math"
	"net/netip"

	"knarr.dev/api/core"
	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/measure"
	"knarr.dev/apiserver/watchcache"
)

// serviceMetrics are those of the addresses and ports of Services. They are counted when somebody asks.
func (s *Server) serviceMetrics(set *measure.Set) {
	each := func(kind *resource.Kind, of func(resource.Object)) (known bool) {
		r := s.registry(kind)
		if r == nil || r.cache.Newest() == nil {
			return false
		}
		r.cache.Newest().Range("", "", func(e *watchcache.Entry) bool {
			of(e.Object)
			return true
		})
		return true
	}
	addresses := func(tell func(cidr string, allocated, free float64)) {
		var ranges []netip.Prefix
		each(networking.ServiceCIDRs.Kind, func(o resource.Object) {
			for _, text := range networking.ServiceCIDRs.Cast(o).Spec.CIDRs {
				if p, err := netip.ParsePrefix(text); err == nil {
					ranges = append(ranges, p)
				}
			}
		})
		held := make([]int, len(ranges))
		each(networking.IPAddresses.Kind, func(o resource.Object) {
			addr, err := netip.ParseAddr(o.GetName())
			for i, p := range ranges {
				if err == nil && p.Contains(addr) {
					held[i]++
				}
			}
		})
		for i, p := range ranges {
			tell(p.String(), float64(held[i]), usable(p)-float64(held[i]))
		}
	}
	cidr := []string{"cidr"}
	set.Read("kube_apiserver_clusterip_allocator_allocated_ips", "[ALPHA] Gauge measuring the number of allocated IPs for Services", cidr,
		func(tell func(float64, ...string)) {
			addresses(func(cidr string, allocated, _ float64) { tell(allocated, cidr) })
		})
	set.Read("kube_apiserver_clusterip_allocator_available_ips", "[ALPHA] Gauge measuring the number of available IPs for Services", cidr,
		func(tell func(float64, ...string)) {
			addresses(func(cidr string, _, free float64) { tell(free, cidr) })
		})
	ports := func(tell func(allocated int)) {
		taken := map[int32]bool{}
		known := each(core.Services.Kind, func(o resource.Object) {
			service := core.Services.Cast(o)
			for i := range service.Spec.Ports {
				if port := service.Spec.Ports[i].NodePort; port != 0 {
					taken[port] = true
				}
			}
			if port := service.Spec.HealthCheckNodePort; port != 0 {
				taken[port] = true
			}
		})
		if known {
			tell(len(taken))
		}
	}
	set.Read("kube_apiserver_nodeport_allocator_allocated_ports", "[ALPHA] Gauge measuring the number of allocated NodePorts for Services", nil,
		func(tell func(float64, ...string)) { ports(func(n int) { tell(float64(n)) }) })
	set.Read("kube_apiserver_nodeport_allocator_available_ports", "[ALPHA] Gauge measuring the number of available NodePorts for Services", nil,
		func(tell func(float64, ...string)) {
			all := s.cfg.NodePorts[1] - s.cfg.NodePorts[0] + 1
			ports(func(n int) { tell(float64(all - n)) })
		})
}

// usable is how many addresses of a range Services can have: not the first, nor the last of IPv4.
func usable(p netip.Prefix) float64 {
	all := math.Exp2(float64(p.Addr().BitLen() - p.Bits()))
	if p.Addr().Is4() {
		return max(all-2, 0)
	}
	return max(all-1, 0)
}
