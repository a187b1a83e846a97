// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	kubeletPort         = 10250
	affinitySecondsMax  = 86400
	onlyForLoadBalancer = "may only be used when `type` is 'LoadBalancer'"
	onceSet             = "may not change once set"
)

func validateService(s *corev1.Service) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateServiceType(s, at)
	ports := sets.New[string]()
	for i := range s.Spec.Ports {
		problems = append(problems, validateServicePort(&s.Spec.Ports[i], len(s.Spec.Ports) > 1, ports, at.Child("ports").Index(i))...)
	}
	problems = append(problems, metavalidation.ValidateLabels(s.Spec.Selector, at.Child("selector"))...)
	problems = append(problems, validateSessionAffinity(s, at)...)
	problems = append(problems, ServiceAddressProblems(s)...)
	problems = append(problems, validateExternalIPs(s.Spec.ExternalIPs, at.Child("externalIPs"))...)
	problems = append(problems, oneOf(at.Child("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	problems = append(problems, repeatedPorts(s, at.Child("ports"))...)
	problems = append(problems, validateSourceRanges(s, at)...)
	if s.Spec.AllocateLoadBalancerNodePorts != nil && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		problems = append(problems, field.Forbidden(at.Child("allocateLoadBalancerNodePorts"), onlyForLoadBalancer))
	}
	if class := s.Spec.LoadBalancerClass; class != nil {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			problems = append(problems, field.Forbidden(at.Child("loadBalancerClass"), onlyForLoadBalancer))
		} else {
			problems = append(problems, metavalidation.ValidateLabelName(*class, at.Child("loadBalancerClass"))...)
		}
	}
	return append(problems, validateTraffic(s, at)...)
}

func validateServiceType(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if len(s.Spec.Ports) == 0 && !headless && s.Spec.Type != corev1.ServiceTypeExternalName {
		problems = append(problems, field.Required(at.Child("ports"), ""))
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range s.Spec.Ports {
			if p.Port == kubeletPort {
				problems = append(problems, field.Invalid(at.Child("ports").Index(i), p.Port, "may not expose port 10250 externally since it is used by kubelet"))
			}
		}
		if headless {
			problems = append(problems, field.Invalid(at.Child("clusterIPs").Index(0), s.Spec.ClusterIP, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if headless {
			problems = append(problems, field.Invalid(at.Child("clusterIPs").Index(0), s.Spec.ClusterIP, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		if name := s.Spec.ExternalName; name == "" {
			problems = append(problems, field.Required(at.Child("externalName"), ""))
		} else {
			for _, m := range validation.IsDNS1123Subdomain(strings.TrimSuffix(name, ".")) {
				problems = append(problems, field.Invalid(at.Child("externalName"), name, m))
			}
		}
	}
	return problems
}

func validateServicePort(p *corev1.ServicePort, several bool, names sets.Set[string], at *field.Path) (problems field.ErrorList) {
	switch {
	case p.Name == "" && several:
		problems = append(problems, field.Required(at.Child("name"), ""))
	case p.Name != "":
		problems = append(problems, dnsLabel(p.Name, at.Child("name"))...)
		if names.Has(p.Name) {
			problems = append(problems, field.Duplicate(at.Child("name"), p.Name))
		}
		names.Insert(p.Name)
	}
	problems = append(problems, portNumber(p.Port, at.Child("port"))...)
	problems = append(problems, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	problems = append(problems, portOrName(p.TargetPort, at.Child("targetPort"))...)
	if p.AppProtocol != nil {
		for _, m := range validation.IsQualifiedName(*p.AppProtocol) {
			problems = append(problems, field.Invalid(at.Child("appProtocol"), *p.AppProtocol, m))
		}
	}
	return problems
}

// repeatedPorts refuses ports that are there twice, and node ports for Services without them.
func repeatedPorts(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	nodePorts, ports := sets.New[string](), sets.New[string]()
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		for i, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				problems = append(problems, field.Forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	for i, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			key := fmt.Sprintf("%s/%d", p.Protocol, p.NodePort)
			if nodePorts.Has(key) {
				problems = append(problems, field.Duplicate(at.Index(i).Child("nodePort"), p.NodePort))
			}
			nodePorts.Insert(key)
		}
	}
	for i, p := range s.Spec.Ports {
		key := fmt.Sprintf("%s/%d", p.Protocol, p.Port)
		if ports.Has(key) {
			problems = append(problems, field.Duplicate(at.Index(i), shown{&corev1.ServicePort{Protocol: p.Protocol, Port: p.Port, TargetPort: intstr.FromInt32(0)}}))
		}
		ports.Insert(key)
	}
	return problems
}

func validateSessionAffinity(s *corev1.Service, at *field.Path) field.ErrorList {
	problems := oneOf(at.Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config := at.Child("sessionAffinityConfig")
	switch s.Spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		c := s.Spec.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			return append(problems, field.Required(config, "when session affinity type is ClientIP"))
		}
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > affinitySecondsMax {
			problems = append(problems, field.Invalid(config.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", affinitySecondsMax)))
		}
	case corev1.ServiceAffinityNone:
		if s.Spec.SessionAffinityConfig != nil {
			problems = append(problems, field.Forbidden(config, "must not be set when session affinity is None"))
		}
	}
	return problems
}

// ServiceAddressProblems checks the fields for addresses and families against each other, as far as a server can without
// knowing its own network.
func ServiceAddressProblems(s *corev1.Service) field.ErrorList {
	at := field.NewPath("spec")
	ips, families := at.Child("clusterIPs"), at.Child("ipFamilies")
	var problems field.ErrorList
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		for _, f := range []struct {
			at  *field.Path
			set bool
		}{{ips, len(s.Spec.ClusterIPs) > 0}, {families, len(s.Spec.IPFamilies) > 0}, {at.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy != nil}} {
			if f.set {
				problems = append(problems, field.Forbidden(f.at, "may not be set for ExternalName services"))
			}
		}
		return problems
	}
	switch all := s.Spec.ClusterIPs; {
	case s.Spec.ClusterIP != "" && len(all) == 0:
		problems = append(problems, field.Required(ips, ""))
	case s.Spec.ClusterIP == "" && len(all) > 0:
		problems = append(problems, field.Invalid(ips, all, "must be empty when `clusterIP` is not specified"))
	case len(all) > 0 && all[0] != s.Spec.ClusterIP:
		problems = append(problems, field.Invalid(ips, all, "first value must match `clusterIP`"))
	}
	problems = append(problems, familyProblems(s, at)...)
	problems = append(problems, clusterIPProblems(s, ips)...)
	if single := s.Spec.IPFamilyPolicy; len(problems) == 0 && single != nil && *single == corev1.IPFamilyPolicySingleStack && len(s.Spec.IPFamilies) > 1 {
		problems = append(problems, field.Invalid(at.Child("ipFamilyPolicy"), *single, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return problems
}

func familyProblems(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	families := at.Child("ipFamilies")
	if p := s.Spec.IPFamilyPolicy; p != nil {
		problems = append(problems, allowed(at.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	seen := sets.New[corev1.IPFamily]()
	for i, f := range s.Spec.IPFamilies {
		problems = append(problems, allowed(families.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(f) {
			problems = append(problems, field.Duplicate(families.Index(i), f))
		}
		seen.Insert(f)
	}
	return problems
}

func clusterIPProblems(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	all := s.Spec.ClusterIPs
	if len(all) > 2 {
		problems = append(problems, field.Invalid(at, all, "may only hold up to 2 values"))
	}
	both, readable := map[bool]bool{}, true
	for i, ip := range all {
		if i == 0 && ip == corev1.ClusterIPNone {
			readable = false
			if len(all) > 1 {
				problems = append(problems, field.Invalid(at, all, "'None' must be the first and only value"))
			}
			continue
		}
		if bad := validation.IsValidIPForLegacyField(at.Index(i), ip, true, nil); len(bad) > 0 {
			readable = false
			problems = append(problems, bad...)
			continue
		}
		v6 := net.ParseIP(ip).To4() == nil
		both[v6] = true
		if i < len(s.Spec.IPFamilies) {
			if want := s.Spec.IPFamilies[i]; (want == corev1.IPv6Protocol) != v6 {
				problems = append(problems, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", want, i)))
			}
		}
	}
	if readable && len(all) > 1 && len(both) < 2 {
		problems = append(problems, field.Invalid(at, all, "may specify no more than one IP for each IP family"))
	}
	return problems
}

func validateExternalIPs(ips []string, at *field.Path) (problems field.ErrorList) {
	for i, ip := range ips {
		at := at.Index(i)
		if bad := validation.IsValidIPForLegacyField(at, ip, true, nil); len(bad) > 0 {
			problems = append(problems, bad...)
			continue
		}
		problems = append(problems, ordinaryIP(ip, at)...)
	}
	return problems
}

// ordinaryIP refuses addresses that cannot be another host's.
func ordinaryIP(ip string, at *field.Path) (problems field.ErrorList) {
	parsed := net.ParseIP(ip)
	for _, rule := range []struct {
		bad  bool
		text string
	}{
		{parsed.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", ip)},
		{parsed.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{parsed.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{parsed.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
	} {
		if rule.bad {
			problems = append(problems, field.Invalid(at, ip, rule.text))
		}
	}
	return problems
}

func validateSourceRanges(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	forbidden := func(at *field.Path) {
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			problems = append(problems, field.Forbidden(at, onlyForLoadBalancer))
		}
	}
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		at := at.Child("LoadBalancerSourceRanges")
		forbidden(at)
		for i, cidr := range s.Spec.LoadBalancerSourceRanges {
			problems = append(problems, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(cidr), true, nil)...)
		}
		return problems
	}
	value, set := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !set {
		return nil
	}
	at = field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	forbidden(at)
	if value = strings.TrimSpace(value); value != "" {
		for cidr := range strings.SplitSeq(value, ",") {
			problems = append(problems, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(cidr), true, nil)...)
		}
	}
	return problems
}

// external tells whether a Service is reached from outside the cluster.
func external(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer ||
		s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func validateTraffic(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	policy := at.Child("externalTrafficPolicy")
	switch p := s.Spec.ExternalTrafficPolicy; {
	case p == "" && external(s):
		problems = append(problems, field.Required(policy, ""))
	case p != "" && !external(s):
		problems = append(problems, field.Invalid(policy, p, "may only be set for externally-accessible services"))
	case p != "":
		problems = append(problems, allowed(policy, p, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	health := s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if port := s.Spec.HealthCheckNodePort; port != 0 {
		if !health {
			problems = append(problems, field.Invalid(at.Child("healthCheckNodePort"), port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		} else {
			problems = append(problems, portNumber(port, at.Child("healthCheckNodePort"))...)
		}
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		problems = append(problems, allowed(at.Child("internalTrafficPolicy"), *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if s.Spec.Type != corev1.ServiceTypeExternalName {
		problems = append(problems, field.Required(at.Child("internalTrafficPolicy"), ""))
	}
	if d := s.Spec.TrafficDistribution; d != nil {
		problems = append(problems, allowed(at.Child("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return problems
}

func validateServiceUpdate(s, old *corev1.Service) (problems field.ErrorList) {
	at := field.NewPath("spec")
	if s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName {
		if len(old.Spec.ClusterIPs) > 0 && len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0] {
			problems = append(problems, field.Invalid(at.Child("clusterIPs").Index(0), s.Spec.ClusterIPs, onceSet))
		}
		if len(old.Spec.ClusterIPs) == 2 && len(s.Spec.ClusterIPs) == 2 && s.Spec.ClusterIPs[1] != old.Spec.ClusterIPs[1] {
			problems = append(problems, field.Invalid(at.Child("clusterIPs").Index(1), s.Spec.ClusterIPs, onceSet))
		}
		headless := old.Spec.ClusterIP == corev1.ClusterIPNone && s.Spec.ClusterIP == corev1.ClusterIPNone
		if !headless && len(old.Spec.IPFamilies) > 0 && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
			problems = append(problems, field.Invalid(at.Child("ipFamilies").Index(0), s.Spec.IPFamilies, onceSet))
		}
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass != nil { // again, as Kubernetes does
		problems = append(problems, field.Forbidden(at.Child("loadBalancerClass"), onlyForLoadBalancer))
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		problems = append(problems, apivalidation.ValidateImmutableField(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass, at.Child("loadBalancerClass"))...)
	}
	return problems
}

func validateIngress(s *corev1.Service, at *field.Path) (problems field.ErrorList) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := at.Index(i)
		if in.IP != "" {
			problems = append(problems, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, nil)...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			problems = append(problems, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			problems = append(problems, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		case in.IPMode != nil:
			problems = append(problems, allowed(at.Child("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			problems = append(problems, subdomain(in.Hostname, at.Child("hostname"))...)
			if net.ParseIP(in.Hostname) != nil {
				problems = append(problems, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return problems
}

func serviceWarnings(s *corev1.Service) (out []string) {
	at := field.NewPath("spec")
	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if len(s.Spec.ExternalIPs) > 0 && !headless && s.Spec.Type != corev1.ServiceTypeExternalName {
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	for i, ip := range s.Spec.ExternalIPs {
		out = append(out, validation.GetWarningsForIP(at.Child("externalIPs").Index(i), ip)...)
	}
	if s.Spec.LoadBalancerIP != "" {
		out = append(out, validation.GetWarningsForIP(at.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		out = append(out, validation.GetWarningsForCIDR(at.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"loadBalancerIP", s.Spec.LoadBalancerIP != ""}, {"externalIPs", len(s.Spec.ExternalIPs) > 0}, {"SessionAffinity", s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP}} {
		if headless && f.set {
			out = append(out, "spec."+f.name+" is ignored for headless services")
		}
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName != "" {
		out = append(out, "spec.externalName is ignored when spec.type is not \"ExternalName\"")
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.ExternalIPs) > 0 {
		out = append(out, "spec.externalIPs is ignored when spec.type is \"ExternalName\"")
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q", *d, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}
