// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// records are what one name has. All names in them are in lower case and end with a dot.
type records struct {
	a     []netip.Addr
	srv   []target
	cname string
	ptr   []string
	txt   []string
}

// target is where a port is served.
type target struct {
	port uint16
	name string
}

func (r records) equal(other records) bool {
	return slices.Equal(r.a, other.a) && slices.Equal(r.srv, other.srv) && r.cname == other.cname &&
		slices.Equal(r.ptr, other.ptr) && slices.Equal(r.txt, other.txt)
}

// merge joins what two owners say about one name.
func (r records) merge(other records) records {
	out := records{cname: cmp.Or(r.cname, other.cname)}
	out.a = unique(append(slices.Clone(r.a), other.a...), netip.Addr.Compare)
	out.srv = unique(append(slices.Clone(r.srv), other.srv...), compareTargets)
	out.ptr = unique(append(slices.Clone(r.ptr), other.ptr...), strings.Compare)
	out.txt = append(slices.Clone(r.txt), other.txt...)
	return out
}

func compareTargets(a, b target) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.port, b.port))
}

func unique[T comparable](of []T, compare func(a, b T) int) []T {
	slices.SortFunc(of, compare)
	return slices.Compact(of)
}

// recordsOf returns the names of a Service with their records, those that only have names below them included. domain ends with a
// dot.
func recordsOf(s *corev1.Service, endpoints []*discoveryv1.EndpointSlice, domain string) map[string]records {
	name := strings.ToLower(s.Name + "." + s.Namespace + ".svc." + domain)
	switch {
	case headless(s):
		return endpointRecords(s, name, endpoints)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		if target := dns.CanonicalName(s.Spec.ExternalName); target != "." {
			return map[string]records{name: {cname: target}}
		}
		return nil
	}
	found := map[string]records{}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	var own records
	for _, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue // IPv6 has no records, but the name exists
		}
		if ip.Is4() {
			own.a = append(own.a, ip)
			found[reverse(ip)] = records{ptr: []string{name}}
		}
		found[name] = own
	}
	if len(found) == 0 {
		return nil // no address yet
	}
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			service(found, name, p.Name, string(p.Protocol), target{port: uint16(p.Port), name: name})
		}
	}
	return found
}

// service adds a named port.
func service(found map[string]records, name, port, protocol string, to target) {
	parent := "_" + strings.ToLower(cmp.Or(protocol, "tcp")) + "." + name
	full := "_" + strings.ToLower(port) + "." + parent
	if _, ok := found[parent]; !ok {
		found[parent] = records{}
	}
	r := found[full]
	r.srv = append(r.srv, to)
	found[full] = r
}

// headless tells whether the names of a Service are those of its endpoints.
func headless(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP == corev1.ClusterIPNone
}

// endpointRecords has the addresses of the endpoints under the Service's name, and each under a name of its own. Without ready endpoints there
// is no name at all.
func endpointRecords(s *corev1.Service, name string, endpoints []*discoveryv1.EndpointSlice) map[string]records {
	found := map[string]records{}
	for _, slice := range endpoints {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.Conditions.Ready != nil && !*e.Conditions.Ready && !s.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range e.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil || !ip.Is4() {
					continue
				}
				host := hostname(e, ip) + "." + name
				for _, n := range []string{name, host} {
					r := found[n]
					r.a = append(r.a, ip)
					found[n] = r
				}
				back := found[reverse(ip)]
				back.ptr = append(back.ptr, host)
				found[reverse(ip)] = back
				for _, p := range slice.Ports {
					if p.Port != nil && p.Name != nil && *p.Name != "" {
						protocol := ""
						if p.Protocol != nil {
							protocol = string(*p.Protocol)
						}
						service(found, name, *p.Name, protocol, target{port: uint16(*p.Port), name: host})
					}
				}
			}
		}
	}
	for n, r := range found { // an endpoint may be in two slices while it moves
		r.a, r.srv, r.ptr = unique(r.a, netip.Addr.Compare), unique(r.srv, compareTargets), unique(r.ptr, strings.Compare)
		found[n] = r
	}
	return found
}

// hostname is the name of an endpoint below its Service: its own, or one made of its address.
func hostname(e *discoveryv1.Endpoint, ip netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return strings.ReplaceAll(ip.String(), ".", "-")
}

// reverse is the name under which an address is looked up.
func reverse(ip netip.Addr) string {
	b := ip.As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
}

// unreverse is the address that a reverse name is of.
func unreverse(name string) (netip.Addr, bool) {
	text, ok := strings.CutSuffix(name, ".in-addr.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(text, ".")
	slices.Reverse(parts)
	ip, err := netip.ParseAddr(strings.Join(parts, "."))
	return ip, err == nil && ip.Is4()
}
