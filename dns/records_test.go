// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testService reads "NAME CLUSTERIP|None|->TARGET [PORTNAME=PORT/PROTOCOL]... [notready]" in namespace ns.
func testService(text string) *corev1.Service {
	f := strings.Fields(text)
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: f[0]}, Spec: corev1.ServiceSpec{ClusterIP: f[1]}}
	if target, ok := strings.CutPrefix(f[1], "->"); ok {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target}
	}
	for _, o := range f[2:] {
		if o == "notready" {
			s.Spec.PublishNotReadyAddresses = true
			continue
		}
		p := testPort(o)
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol})
	}
	return s
}

// testPort reads "[NAME]=PORT/PROTOCOL".
func testPort(text string) discoveryv1.EndpointPort {
	name, rest, _ := strings.Cut(text, "=")
	number, protocol, _ := strings.Cut(rest, "/")
	var port int32
	fmt.Sscan(number, &port)
	return discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: new(corev1.Protocol(protocol))}
}

// testSlice reads "SERVICE PORT... [HOSTNAME@]IP[!]...", the ! for not ready.
func testSlice(name, text string) *discoveryv1.EndpointSlice {
	f := strings.Fields(text)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: f[0]}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, o := range f[1:] {
		if strings.Contains(o, "=") {
			s.Ports = append(s.Ports, testPort(o))
			continue
		}
		o, unready := strings.CutSuffix(o, "!")
		e := discoveryv1.Endpoint{Conditions: discoveryv1.EndpointConditions{Ready: new(!unready)}}
		if host, ip, ok := strings.Cut(o, "@"); ok {
			e.Hostname, o = &host, ip
		}
		e.Addresses = []string{o}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func text(all map[string]records) string {
	var lines []string
	for name, r := range all {
		line := strings.TrimSuffix(name, ".ns.svc.c.") + ":"
		for _, a := range r.a {
			line += " " + a.String()
		}
		for _, t := range r.srv {
			line += fmt.Sprintf(" %s=%d", strings.TrimSuffix(t.name, ".ns.svc.c."), t.port)
		}
		for _, p := range r.ptr {
			line += " " + p
		}
		lines = append(lines, line+r.cname)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRecordsOf(t *testing.T) {
	for _, c := range []struct {
		name, service string
		endpoints     []string
		want          []string
	}{
		{"cluster address", "web 10.43.0.7 http=80/TCP =81/TCP dns=53/UDP", []string{"web http=8080/TCP 10.42.0.1"}, []string{
			"7.0.43.10.in-addr.arpa.: web.ns.svc.c.",
			"_dns._udp.web: web=53", "_http._tcp.web: web=80", "_tcp.web:", "_udp.web:", "web: 10.43.0.7"}},
		{"no address yet", "web - http=80/TCP", nil, nil},
		{"only IPv6", "web fd00::1", nil, []string{"web:"}},
		{"external name", "web ->Example.COM", nil, []string{"web:example.com."}},
		{"external name without a name", "web ->", nil, nil},
		{"headless", "db None", []string{"db sql=5432/TCP =1/TCP b-0@10.42.0.1 10.42.1.2 10.42.1.3!"}, []string{
			"1.0.42.10.in-addr.arpa.: b-0.db.ns.svc.c.", "10-42-1-2.db: 10.42.1.2", "2.1.42.10.in-addr.arpa.: 10-42-1-2.db.ns.svc.c.",
			"_sql._tcp.db: 10-42-1-2.db=5432 b-0.db=5432", "_tcp.db:", "b-0.db: 10.42.0.1", "db: 10.42.0.1 10.42.1.2"}},
		{"headless, one host with two addresses, in two slices", "db None", []string{"db b@10.42.0.1", "db b@10.42.0.2 b@10.42.0.1"}, []string{
			"1.0.42.10.in-addr.arpa.: b.db.ns.svc.c.", "2.0.42.10.in-addr.arpa.: b.db.ns.svc.c.",
			"b.db: 10.42.0.1 10.42.0.2", "db: 10.42.0.1 10.42.0.2"}},
		{"headless and not ready", "db None", []string{"db 10.42.0.1!"}, nil},
		{"headless, published before ready", "db None notready", []string{"db a@10.42.0.1!"}, []string{
			"1.0.42.10.in-addr.arpa.: a.db.ns.svc.c.", "a.db: 10.42.0.1", "db: 10.42.0.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var endpoints []*discoveryv1.EndpointSlice
			for i, e := range c.endpoints {
				endpoints = append(endpoints, testSlice(fmt.Sprint(i), e))
			}
			if got := text(recordsOf(testService(c.service), endpoints, "c.")); got != strings.Join(c.want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, strings.Join(c.want, "\n"))
			}
		})
	}
}
