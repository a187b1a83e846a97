// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestServiceProblems(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"fine", `{}`, nil},
		{"address without the first", `clusterIPs: [10.96.0.9]`, []string{"spec.clusterIPs: Invalid value: [\"10.96.0.9\"]: must be empty when `clusterIP` is not specified"}},
		{"no address", `{clusterIP: bad, clusterIPs: [bad]}`, []string{`spec.clusterIPs[0]: Invalid value: "bad": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`}},
		{"family", `{clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ipFamilies: [IPv6]}`,
			[]string{"spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`"}},
		{"headless node ports", `{clusterIP: None, clusterIPs: [None], type: NodePort}`,
			[]string{`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`}},
		{"loopback", `externalIPs: [127.0.0.1]`, []string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"node port", `ports: [{port: 80, nodePort: 30000}]`, []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"local", `externalTrafficPolicy: Local`, []string{`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`}},
		{"class", `loadBalancerClass: a/b`, []string{"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &corev1.Service{}
			s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
			if err := yaml.UnmarshalStrict([]byte(c.spec), &s.Spec); err != nil {
				t.Fatal(err)
			}
			defaultService(s)
			if got := texts(validateService(s)); !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

func TestServiceAddressStays(t *testing.T) {
	with := func(ip string) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}}}
	}
	if got := texts(validateServiceUpdate(with("None"), with("10.96.0.9"))); !slices.Equal(got, []string{`spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`}) {
		t.Errorf("got %q", got)
	}
	if got := validateServiceUpdate(with("10.96.0.9"), with("10.96.0.9")); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestIngressProblems(t *testing.T) {
	s := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	odd := corev1.LoadBalancerIPMode("Odd")
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1", IPMode: &odd}, {IP: "192.0.2.2"}}
	defaultService(s)
	want := []string{`status.loadBalancer.ingress[0].ipMode: Unsupported value: "Odd": supported values: "Proxy", "VIP"`}
	if got := texts(Services.Status.Validate(s, s)); len(got) != 1 || !strings.HasSuffix(got[0], want[0][len("status."):]) {
		t.Errorf("got %q", got)
	}
}
