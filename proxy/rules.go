// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/client"
	"knarr.dev/proxy/nft"
)

// Label names of Services and slices that other programs carry out.
const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	labelHeadless  = corev1.IsHeadlessService
)

// markMasquerade is the bit of packet marks that asks for masquerading on the way out.
const markMasquerade = "0x00004000"

// Node is the point of view of the rules.
type Node struct {
	// Name tells which endpoints are local.
	Name string
	// Addresses are the addresses of the node that node ports answer on.
	Addresses []netip.Addr
	// Pods is the range of all pods of the cluster, Nodes that of the addresses of its nodes.
	Pods, Nodes netip.Prefix
	// Services is the range of Service addresses.
	Services netip.Prefix
	// Unbridged says that packets between pods of the node do not pass the rules: answers would not come back as they went.
	Unbridged bool
}

// Loopback tells whether node ports answer on a loopback address.
func (n Node) Loopback() bool { return slices.ContainsFunc(n.Addresses, netip.Addr.IsLoopback) }

// Rules returns everything that the table of node must hold. It depends on its arguments alone, not on their order.
func Rules(services []*corev1.Service, endpoints []*discoveryv1.EndpointSlice, node Node) nft.Table {
	of := map[client.Key][]*discoveryv1.EndpointSlice{}
	for _, s := range endpoints {
		key := serviceOf(s)
		of[key] = append(of[key], s)
	}
	t := nft.Table{Base: base(node), Parts: map[string]nft.Part{}}
	for _, s := range services {
		key := client.KeyOf(s)
		if p := partOf(s, of[key], node); !p.Empty() {
			t.Parts[key.String()] = p
		}
	}
	return t
}

// serviceOf names the Service that a slice belongs to; its name is empty if there is none.
func serviceOf(s *discoveryv1.EndpointSlice) client.Key {
	return client.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// base is what the table holds whatever the Services are.
func base(node Node) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("map services { type ipv4_addr . inet_proto . inet_service : verdict; }")
	line("map node-ports { type inet_proto . inet_service : verdict; }")
	line("set cluster-ips { type ipv4_addr; }")
	line("set served { type ipv4_addr . inet_proto . inet_service; }")
	line("set refused { type ipv4_addr . inet_proto . inet_service; }")
	line("set refused-ports { type inet_proto . inet_service; }")
	line("set hairpin { type ipv4_addr . ipv4_addr; }")
	line("set neighbours { type ipv4_addr; }")
	line("set node-ips { type ipv4_addr; %s}", elements(node.Addresses))
	if node.Loopback() {
		// The kernel routes loopback addresses, for node ports on them; none may come from, or for, another machine.
		line("chain martians {")
		line("  type filter hook prerouting priority -300;")
		line("  iifname != lo ip saddr 127.0.0.0/8 drop")
		line("  iifname != lo ip daddr 127.0.0.0/8 drop")
		line("}")
	}
	line("chain dispatch {")
	line("  ip daddr . meta l4proto . th dport vmap @services")
	line("  ip daddr @node-ips meta l4proto . th dport vmap @node-ports")
	line("}")
	line("chain prerouting { type nat hook prerouting priority -100; jump dispatch; }")
	line("chain output { type nat hook output priority -100; jump dispatch; }")
	line("chain postrouting {")
	line("  type nat hook postrouting priority 100;")
	line("  meta mark & %s != 0 meta mark set meta mark & 0xffffbfff masquerade fully-random", markMasquerade)
	line("  ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random")
	if node.Unbridged && node.Pods.IsValid() {
		line("  ct status dnat ip saddr %s ip daddr @neighbours masquerade fully-random", node.Pods.Masked())
	}
	if from := valid(node.Pods, node.Nodes); len(from) > 0 {
		inside := append(valid(node.Pods, node.Nodes, node.Services), "127.0.0.0/8", "224.0.0.0/4")
		line("  ip saddr { %s } ip daddr != { %s } masquerade fully-random", strings.Join(from, ", "), strings.Join(inside, ", "))
	}
	line("}")
	line("chain refuse {")
	// A packet that passes while rules are replaced may find an endpoint neither by the old ones nor by the new: its sender tries again.
	line("  ip daddr . meta l4proto . th dport @served drop")
	line("  ip daddr @cluster-ips goto reject-all")
	if node.Services.IsValid() {
		// No Service, or not yet: who asks too early finds it with the next try.
		line("  ip daddr %s drop", node.Services.Masked())
	}
	line("  ip daddr . meta l4proto . th dport @refused goto reject-all")
	line("  ip daddr @node-ips meta l4proto . th dport @refused-ports goto reject-all")
	line("}")
	line("chain reject-all {")
	line("  meta l4proto tcp reject with tcp reset")
	line("  reject")
	line("}")
	for _, hook := range []string{"input", "forward", "output"} {
		line("chain filter-%s { type filter hook %s priority 0; ct state new jump refuse; }", hook, hook)
	}
	return b.String()
}

func elements(addresses []netip.Addr) string {
	if len(addresses) == 0 {
		return ""
	}
	var names []string
	for _, a := range addresses {
		names = append(names, a.String())
	}
	slices.Sort(names)
	return "elements = { " + strings.Join(slices.Compact(names), ", ") + " }; "
}

func valid(prefixes ...netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		if p.IsValid() && !slices.Contains(out, p.Masked().String()) {
			out = append(out, p.Masked().String())
		}
	}
	return out
}

// handled tells whether Service s has rules at all.
func handled(s *corev1.Service) bool {
	return s != nil && s.Spec.Type != corev1.ServiceTypeExternalName && s.Labels[labelProxyName] == "" &&
		len(clusterIPs(s)) > 0
}

func clusterIPs(s *corev1.Service) []string {
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	return only4(ips)
}

func only4(ips []string) []string {
	var out []string
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip); err == nil && a.Is4() {
			out = append(out, a.String())
		}
	}
	return out
}

// partOf is the share of one Service.
func partOf(s *corev1.Service, endpoints []*discoveryv1.EndpointSlice, node Node) nft.Part {
	b := builder{Part: nft.NewPart(), service: s, node: node}
	if !handled(s) {
		return b.Part
	}
	for _, ip := range clusterIPs(s) {
		b.element("cluster-ips", ip, "")
	}
	for i := range s.Spec.Ports {
		b.port(&s.Spec.Ports[i], usable(&s.Spec.Ports[i], endpoints, node.Name))
	}
	return b.Part
}

type builder struct {
	nft.Part
	service *corev1.Service
	node    Node
}

func (b *builder) element(set, key, verdict string) {
	b.Elements[nft.Element{Set: set, Key: key}] = verdict
}

// chain adds a chain and returns its name.
func (b *builder) chain(prefix, id string, rules ...string) string {
	name := prefix + "-" + id
	b.Chains[name] = rules
	return name
}

// port makes the chains of one port: endpoints-ID and local-ID choose an endpoint, cluster-ID and external-ID are where
// traffic to the Service's own address and from outside enters.
func (b *builder) port(p *corev1.ServicePort, e choice) {
	s := b.service
	proto := protocol(p.Protocol)
	id := shortID(s.Namespace, s.Name, p.Name, proto, fmt.Sprint(p.Port))
	inLocal := s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	outLocal := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	ips, balancers := only4(s.Spec.ExternalIPs), balancerIPs(s)
	nodePort := int32(0)
	if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		nodePort = p.NodePort
	}
	front := func(ip string) string { return fmt.Sprintf("%s . %s . %d", ip, proto, p.Port) }

	if len(e.all) == 0 {
		for _, ip := range append(ips, balancers...) {
			b.element("refused", front(ip), "")
		}
		if nodePort != 0 {
			b.element("refused-ports", fmt.Sprintf("%s . %d", proto, nodePort), "")
		}
		return
	}
	all := b.endpoints("endpoints", id, proto, e.all)
	local := ""
	if inLocal || outLocal && (nodePort != 0 || len(ips)+len(balancers) > 0) {
		local = b.endpoints("local", id, proto, e.local)
	}
	b.hairpins(e.all)

	target := all
	if inLocal {
		target = local
	}
	var enter []string
	if b.node.Pods.IsValid() {
		enter = append(enter, fmt.Sprintf("ip saddr != %s meta mark set meta mark | %s", b.node.Pods.Masked(), markMasquerade))
	}
	cluster := b.chain("cluster", id, append(enter, "goto "+target)...)
	for _, ip := range clusterIPs(s) {
		b.element("services", front(ip), "goto "+cluster)
		b.element("served", front(ip), "")
		b.flows(proto, ip, p.Port, e.all)
	}
	if nodePort == 0 && len(ips) == 0 && len(balancers) == 0 {
		return
	}
	external := b.external(id, all, local, outLocal)
	for _, ip := range ips {
		b.element("services", front(ip), "goto "+external)
		b.flows(proto, ip, p.Port, e.all)
	}
	if nodePort != 0 {
		b.element("node-ports", fmt.Sprintf("%s . %d", proto, nodePort), "goto "+external)
		for _, a := range b.node.Addresses {
			b.flows(proto, a.String(), nodePort, e.all)
		}
	}
	if ranges := sourceRanges(s); len(ranges) > 0 && len(balancers) > 0 {
		external = b.chain("ranges", id, fmt.Sprintf("ip saddr { %s } goto %s", strings.Join(ranges, ", "), external), "drop")
	}
	for _, ip := range balancers {
		b.element("services", front(ip), "goto "+external)
		b.flows(proto, ip, p.Port, e.all)
	}
}

// external is where traffic to node ports, external and load balancer addresses enters. With the policy Local, traffic
// from outside keeps its source and stays on this node; the cluster's own traffic is spread over all endpoints and, as it may come from
// another node, comes back this way.
func (b *builder) external(id, all, local string, outLocal bool) string {
	const mark = "meta mark set meta mark | " + markMasquerade
	if !outLocal {
		return b.chain("external", id, mark, "goto "+all)
	}
	inside := b.chain("inside", id, mark, "goto "+all)
	var rules []string
	if b.node.Pods.IsValid() {
		rules = append(rules, fmt.Sprintf("ip saddr %s goto %s", b.node.Pods.Masked(), inside))
	}
	return b.chain("external", id, append(rules, "fib saddr type local goto "+inside, "goto "+local)...)
}

// endpoints makes the chain that picks one of the endpoints; with none, it drops.
func (b *builder) endpoints(prefix, id, proto string, of []endpoint) string {
	if len(of) == 0 {
		return b.chain(prefix, id, "drop")
	}
	s := b.service
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		return b.sticky(prefix, id, proto, of)
	}
	if len(of) == 1 {
		return b.chain(prefix, id, fmt.Sprintf("meta l4proto %s dnat to %s:%d", proto, of[0].ip, of[0].port))
	}
	var to []string
	for i, e := range of {
		to = append(to, fmt.Sprintf("%d : %s . %d", i, e.ip, e.port))
	}
	return b.chain(prefix, id, fmt.Sprintf("meta l4proto %s dnat to numgen random mod %d map { %s }", proto, len(of), strings.Join(to, ", ")))
}

// sticky sends a client back to the endpoint that it got last; each endpoint has a set of its clients, which forgets.
func (b *builder) sticky(prefix, id, proto string, of []endpoint) string {
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if c := b.service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	var rules, spread []string
	for i, e := range of {
		eid := shortID(id, e.ip.String(), fmt.Sprint(e.port))
		set := fmt.Sprintf("clients-%s-%ds", eid, seconds)
		b.Sets[set] = fmt.Sprintf("type ipv4_addr; size 65535; flags dynamic,timeout; timeout %ds;", seconds)
		to := b.chain("to", eid, fmt.Sprintf("update @%s { ip saddr }", set),
			fmt.Sprintf("meta l4proto %s dnat to %s:%d", proto, e.ip, e.port))
		rules = append(rules, fmt.Sprintf("ip saddr @%s goto %s", set, to))
		spread = append(spread, fmt.Sprintf("%d : goto %s", i, to))
	}
	rules = append(rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(of), strings.Join(spread, ", ")))
	return b.chain(prefix, id, rules...)
}

// hairpins are the endpoints of this node, which may reach themselves through the Service: their source has to change, or
// they would answer themselves directly.
func (b *builder) hairpins(of []endpoint) {
	for _, e := range of {
		if e.local {
			b.element("hairpin", fmt.Sprintf("%s . %s", e.ip, e.ip), "")
			if b.node.Unbridged {
				b.element("neighbours", e.ip.String(), "")
			}
		}
	}
}

func (b *builder) flows(proto, ip string, port int32, of []endpoint) {
	if proto != "udp" {
		return
	}
	front := netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port)) // ip went through only4
	for _, e := range of {
		b.Flows[nft.Flow{Front: front, Endpoint: netip.AddrPortFrom(e.ip, uint16(e.port))}] = true
	}
}

func balancerIPs(s *corev1.Service) []string {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var ips []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP {
			ips = append(ips, i.IP)
		}
	}
	return only4(ips)
}

func sourceRanges(s *corev1.Service) []string {
	var out []string
	for _, r := range s.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(r))
		if err != nil || !p.Addr().Is4() {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		out = append(out, p.Masked().String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func protocol(p corev1.Protocol) string {
	if p == "" {
		return "tcp"
	}
	return strings.ToLower(string(p))
}

// shortID is a name for nftables that is unique to its parts.
func shortID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:10]))
}
