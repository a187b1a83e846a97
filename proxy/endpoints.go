// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address behind a port of a Service.
type endpoint struct {
	ip    netip.Addr
	port  int32
	local bool
}

// choice is where traffic to a port may go.
type choice struct {
	all   []endpoint
	local []endpoint // those of this node
}

// usable returns the endpoints of port p: the ready ones or, when there are none, those that still serve while they
// terminate. The choice among local endpoints is made for itself.
func usable(p *corev1.ServicePort, from []*discoveryv1.EndpointSlice, node string) choice {
	var ready, serving []endpoint
	for _, s := range from {
		if s.AddressType != discoveryv1.AddressTypeIPv4 || s.Labels[labelHeadless] != "" {
			continue
		}
		port := int32(0)
		for _, sp := range s.Ports {
			if value(sp.Name) == p.Name && sp.Port != nil && protocol(value(sp.Protocol)) == protocol(p.Protocol) {
				port = *sp.Port
			}
		}
		if port == 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !ip.Is4() {
				continue
			}
			found := endpoint{ip: ip, port: port, local: e.NodeName != nil && *e.NodeName == node}
			switch c := e.Conditions; {
			case c.Ready == nil || *c.Ready:
				ready = append(ready, found)
			case (c.Serving == nil || *c.Serving) && value(c.Terminating):
				serving = append(serving, found)
			}
		}
	}
	pick := func(keep func(endpoint) bool) []endpoint {
		for _, from := range [][]endpoint{ready, serving} {
			if some := sorted(from, keep); len(some) > 0 {
				return some
			}
		}
		return nil
	}
	return choice{
		all:   pick(func(endpoint) bool { return true }),
		local: pick(func(e endpoint) bool { return e.local }),
	}
}

func sorted(from []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range from {
		if keep(e) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		return cmp.Or(a.ip.Compare(b.ip), cmp.Compare(a.port, b.port))
	})
	return slices.CompactFunc(out, func(a, b endpoint) bool { return a.ip == b.ip && a.port == b.port })
}

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
