// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/proxy/nft"
)

func testNode() Node {
	return Node{
		Name: "here", Addresses: []netip.Addr{netip.MustParseAddr("10.44.0.11")},
		Pods: netip.MustParsePrefix("10.42.0.0/16"), Nodes: netip.MustParsePrefix("10.44.0.0/16"), Services: netip.MustParsePrefix("10.43.0.0/16"),
	}
}

// testService reads "TYPE CLUSTERIP PORT[/PROTOCOL] OPTION...".
func testService(text string) *corev1.Service {
	f := strings.Fields(text)
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceType(f[0]), ClusterIP: f[1], ClusterIPs: []string{f[1]}},
	}
	port := corev1.ServicePort{Name: "p", Protocol: corev1.ProtocolTCP}
	number, proto, some := strings.Cut(f[2], "/")
	fmt.Sscan(number, &port.Port)
	if some {
		port.Protocol = corev1.Protocol(proto)
	}
	local := corev1.ServiceInternalTrafficPolicyLocal
	for _, o := range f[3:] {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "nodePort":
			fmt.Sscan(v, &port.NodePort)
		case "externalIP":
			s.Spec.ExternalIPs = []string{v}
		case "balancer":
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: v}}
		case "range":
			s.Spec.LoadBalancerSourceRanges = []string{v}
		case "internalLocal":
			s.Spec.InternalTrafficPolicy = &local
		case "externalLocal":
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case "sticky":
			seconds := int32(60)
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	s.Spec.Ports = []corev1.ServicePort{port}
	return s
}

// testSlice reads endpoints "IP[@NODE][!STATE]", all with port 8080.
func testSlice(proto corev1.Protocol, endpoints ...string) *discoveryv1.EndpointSlice {
	name, port, yes, no := "p", int32(8080), true, false
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}},
	}
	for _, e := range endpoints {
		rest, state, _ := strings.Cut(e, "!")
		ip, node, _ := strings.Cut(rest, "@")
		endpoint := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node}
		switch state {
		case "":
			endpoint.Conditions.Ready = &yes
		case "terminating":
			endpoint.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		case "unready":
			endpoint.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no}
		}
		s.Endpoints = append(s.Endpoints, endpoint)
	}
	return s
}

// text is a part with its names made short, one thing a line.
func text(p nft.Part) string {
	var lines []string
	for e, v := range p.Elements {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s %s", e.Set, e.Key, v)))
	}
	for name, rules := range p.Chains {
		lines = append(lines, name+": "+strings.Join(rules, "; "))
	}
	for name := range p.Sets {
		lines = append(lines, "set "+name)
	}
	for f := range p.Flows {
		lines = append(lines, fmt.Sprintf("flow %s %s", f.Front, f.Endpoint))
	}
	ids := regexp.MustCompile(`-[a-z2-7]{16}\b`)
	for i, line := range lines {
		lines[i] = ids.ReplaceAllString(line, "-ID")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRulesOfOneService(t *testing.T) {
	const mark = "meta mark set meta mark | 0x00004000"
	for _, c := range []struct {
		name, service string
		endpoints     []string
		want          []string
	}{
		{"headless", "ClusterIP None 80", []string{"10.42.0.1@here"}, nil},
		{"external name", "ExternalName 10.43.0.1 80", nil, nil},
		{"no endpoints", "ClusterIP 10.43.0.1 80", nil, []string{"cluster-ips: 10.43.0.1"}},
		{"only unready", "NodePort 10.43.0.1 80 nodePort=30000 externalIP=192.0.2.9", []string{"10.42.0.1@here!unready"}, []string{
			"cluster-ips: 10.43.0.1", "refused-ports: tcp . 30000", "refused: 192.0.2.9 . tcp . 80"}},
		{"one", "ClusterIP 10.43.0.1 80", []string{"10.42.1.1@there"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: meta l4proto tcp dnat to 10.42.1.1:8080",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID"}},
		{"ready before terminating, sorted", "ClusterIP 10.43.0.1 80/UDP",
			[]string{"10.42.0.2@here", "10.42.0.9@here!terminating", "10.42.0.1@there"}, []string{
				"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
				"cluster-ips: 10.43.0.1",
				"endpoints-ID: meta l4proto udp dnat to numgen random mod 2 map { 0 : 10.42.0.1 . 8080, 1 : 10.42.0.2 . 8080 }",
				"flow 10.43.0.1:80 10.42.0.1:8080", "flow 10.43.0.1:80 10.42.0.2:8080",
				"hairpin: 10.42.0.2 . 10.42.0.2",
				"served: 10.43.0.1 . udp . 80", "services: 10.43.0.1 . udp . 80 goto cluster-ID"}},
		{"terminating as a last resort", "ClusterIP 10.43.0.1 80", []string{"10.42.0.2@there!unready", "10.42.0.9@there!terminating"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: meta l4proto tcp dnat to 10.42.0.9:8080",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID"}},
		{"internal traffic stays", "ClusterIP 10.43.0.1 80 internalLocal", []string{"10.42.1.1@there"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto local-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: meta l4proto tcp dnat to 10.42.1.1:8080",
			"local-ID: drop",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID"}},
		{"node port, external traffic stays", "NodePort 10.43.0.1 80 nodePort=30000 externalLocal", []string{"10.42.0.1@here", "10.42.1.1@there"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: meta l4proto tcp dnat to numgen random mod 2 map { 0 : 10.42.0.1 . 8080, 1 : 10.42.1.1 . 8080 }",
			"external-ID: ip saddr 10.42.0.0/16 goto inside-ID; fib saddr type local goto inside-ID; goto local-ID",
			"hairpin: 10.42.0.1 . 10.42.0.1",
			"inside-ID: " + mark + "; goto endpoints-ID",
			"local-ID: meta l4proto tcp dnat to 10.42.0.1:8080",
			"node-ports: tcp . 30000 goto external-ID",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID"}},
		{"load balancer", "LoadBalancer 10.43.0.1 80 balancer=192.0.2.8 range=198.51.100.0/24", []string{"10.42.1.1@there"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: meta l4proto tcp dnat to 10.42.1.1:8080",
			"external-ID: " + mark + "; goto endpoints-ID",
			"ranges-ID: ip saddr { 198.51.100.0/24 } goto external-ID; drop",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID",
			"services: 192.0.2.8 . tcp . 80 goto ranges-ID"}},
		{"sticky", "ClusterIP 10.43.0.1 80 sticky", []string{"10.42.1.1@there"}, []string{
			"cluster-ID: ip saddr != 10.42.0.0/16 " + mark + "; goto endpoints-ID",
			"cluster-ips: 10.43.0.1",
			"endpoints-ID: ip saddr @clients-ID-60s goto to-ID; numgen random mod 1 vmap { 0 : goto to-ID }",
			"served: 10.43.0.1 . tcp . 80", "services: 10.43.0.1 . tcp . 80 goto cluster-ID",
			"set clients-ID-60s",
			"to-ID: update @clients-ID-60s { ip saddr }; meta l4proto tcp dnat to 10.42.1.1:8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := testService(c.service)
			table := Rules([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{testSlice(s.Spec.Ports[0].Protocol, c.endpoints...)}, testNode())
			if got := text(table.Parts["ns/web"]); got != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	s := testService("ClusterIP 10.43.0.1 80")
	a, b := testSlice("TCP", "10.42.0.1@here"), testSlice("TCP", "10.42.0.2@here")
	one := Rules([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{a, b}, testNode())
	two := Rules([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{b, a}, testNode())
	if !maps.EqualFunc(one.Parts, two.Parts, func(a, b nft.Part) bool { return text(a) == text(b) }) {
		t.Error("the table depends on the order of slices")
	}
}
