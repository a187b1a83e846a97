// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// EndpointAddress checks an IP address of an endpoint at a path; that it is of another family is reported at all.
func EndpointAddress(ip, family string, all, at *field.Path) field.ErrorList {
	if bad := validation.IsValidIPForLegacyField(at, ip, true, nil); len(bad) > 0 {
		return bad
	}
	if v6 := net.ParseIP(ip).To4() == nil; family == "IPv4" && v6 || family == "IPv6" && !v6 {
		return field.ErrorList{field.Invalid(all, ip, "must be an "+family+" address")}
	}
	return ordinaryIP(ip, at)
}

func validateEndpoints(e *corev1.Endpoints) (problems field.ErrorList) {
	for i := range e.Subsets {
		s, at := &e.Subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			problems = append(problems, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			problems = append(problems, validateEndpointAddress(&s.Addresses[j], at.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			problems = append(problems, validateEndpointAddress(&s.NotReadyAddresses[j], at.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			problems = append(problems, validateEndpointPort(&s.Ports[j], len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	return problems
}

func validateEndpointAddress(a *corev1.EndpointAddress, at *field.Path) field.ErrorList {
	problems := EndpointAddress(a.IP, "", at.Child("ip"), at.Child("ip"))
	none := len(problems) > 0 && strings.Contains(problems[0].Detail, "must be a valid IP address")
	if a.Hostname != "" {
		problems = append(problems, dnsLabel(a.Hostname, at.Child("hostname"))...)
	}
	if a.NodeName != nil {
		problems = append(problems, subdomain(*a.NodeName, at.Child("nodeName"))...)
	}
	if none { // which Kubernetes finds out twice
		problems = append(problems, field.Invalid(at.Child("ip"), a.IP, "must be a valid IP address"))
	}
	return problems
}

func validateEndpointPort(p *corev1.EndpointPort, named bool, at *field.Path) (problems field.ErrorList) {
	switch {
	case named && p.Name == "":
		problems = append(problems, field.Required(at.Child("name"), ""))
	case p.Name != "":
		problems = append(problems, dnsLabel(p.Name, at.Child("name"))...)
	}
	problems = append(problems, portNumber(p.Port, at.Child("port"))...)
	problems = append(problems, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	if p.AppProtocol != nil {
		for _, m := range validation.IsQualifiedName(*p.AppProtocol) {
			problems = append(problems, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, m))
		}
	}
	return problems
}
