// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// NetworkPolicies say what may talk to pods and whom pods may talk to.
var NetworkPolicies = resource.WithList(resource.Define(resource.Definition[networkingv1.NetworkPolicy]{
	Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy", Resource: "networkpolicies",
	ShortNames:    []string{"netpol"},
	Scope:         resource.Namespaced,
	StoragePath:   "networkpolicies",
	Default:       defaultPolicy,
	PrepareCreate: func(p *networkingv1.NetworkPolicy) { p.Generation = 1 },
	PrepareUpdate: func(p, old *networkingv1.NetworkPolicy) {
		p.Generation = old.Generation
		if core.Changed(p.Spec, old.Spec) {
			p.Generation++
		}
	},
	Validate: validatePolicy,
	Warnings: policyWarnings,
	Columns: []resource.Column[networkingv1.NetworkPolicy]{
		{Name: "Pod-Selector", Value: func(p *networkingv1.NetworkPolicy, _ time.Time) any {
			return metav1.FormatLabelSelector(&p.Spec.PodSelector)
		}},
	},
}), func() runtime.Object { return new(networkingv1.NetworkPolicyList) })

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	protocols := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			core.SetDefault(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		protocols(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		protocols(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func validatePolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	s, at := &p.Spec, field.NewPath("spec")
	problems := selector(&s.PodSelector, at.Child("podSelector"))
	for i, rule := range s.Ingress {
		at := at.Child("ingress").Index(i)
		problems = append(problems, validatePorts(rule.Ports, at.Child("ports"))...)
		for j := range rule.From {
			problems = append(problems, validatePeer(&rule.From[j], at.Child("from").Index(j))...)
		}
	}
	for i, rule := range s.Egress {
		at := at.Child("egress").Index(i)
		problems = append(problems, validatePorts(rule.Ports, at.Child("ports"))...)
		for j := range rule.To {
			problems = append(problems, validatePeer(&rule.To[j], at.Child("to").Index(j))...)
		}
	}
	if len(s.PolicyTypes) > 2 {
		return append(problems, field.Invalid(at.Child("policyTypes"), s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		problems = append(problems, inOrder(at.Child("policyTypes").Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return problems
}

func inOrder[T ~string](at *field.Path, value T, known ...T) field.ErrorList {
	return core.Allowed(at, value, known...)
}

func selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)
}

func validatePorts(ports []networkingv1.NetworkPolicyPort, all *field.Path) (problems field.ErrorList) {
	for i, p := range ports {
		at := all.Index(i)
		if p.Protocol != nil {
			problems = append(problems, inOrder(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		if p.Port != nil {
			bad := validation.IsValidPortName(p.Port.StrVal)
			if p.Port.Type == intstr.Int {
				bad = validation.IsValidPortNum(int(p.Port.IntVal))
			}
			if p.EndPort != nil && p.Port.Type == intstr.String {
				problems = append(problems, validateEndPort(*p.EndPort, p.Port, at.Child("endPort"))...)
			}
			for _, m := range bad {
				if p.Port.Type == intstr.Int {
					problems = append(problems, field.Invalid(at.Child("port"), p.Port.IntVal, m))
				} else {
					problems = append(problems, field.Invalid(at.Child("port"), p.Port.StrVal, m))
				}
			}
		}
		if p.EndPort != nil && (p.Port == nil || p.Port.Type == intstr.Int) {
			problems = append(problems, validateEndPort(*p.EndPort, p.Port, at.Child("endPort"))...)
		}
	}
	return problems
}

func validateEndPort(end int32, port *intstr.IntOrString, at *field.Path) (problems field.ErrorList) {
	switch {
	case port == nil:
		return field.ErrorList{field.Invalid(at, end, "may not be specified when `port` is not specified")}
	case port.Type == intstr.String:
		return field.ErrorList{field.Invalid(at, end, "may not be specified when `port` is non-numeric")}
	case end < port.IntVal: // Kubernetes shows the port
		problems = append(problems, field.Invalid(at, port.IntVal, "must be greater than or equal to `port`"))
	}
	for _, m := range validation.IsValidPortNum(int(end)) {
		problems = append(problems, field.Invalid(at, end, m))
	}
	return problems
}

func validatePeer(p *networkingv1.NetworkPolicyPeer, at *field.Path) (problems field.ErrorList) {
	others := false
	if p.PodSelector != nil {
		others = true
		problems = append(problems, selector(p.PodSelector, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		others = true
		problems = append(problems, selector(p.NamespaceSelector, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		problems = append(problems, validateBlock(p.IPBlock, at.Child("ipBlock"))...)
	}
	switch {
	case !others && p.IPBlock == nil:
		problems = append(problems, field.Required(at, "must specify a peer"))
	case others && p.IPBlock != nil:
		problems = append(problems, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return problems
}

func validateBlock(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	problems := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, nil)
	if len(problems) > 0 {
		return problems
	}
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return problems
	}
	for i, except := range b.Except {
		at := at.Child("except").Index(i)
		if bad := validation.IsValidCIDRForLegacyField(at, except, true, nil); len(bad) > 0 {
			problems = append(problems, bad...)
			continue
		}
		part, err := netip.ParsePrefix(except)
		if err == nil && (!whole.Contains(part.Addr()) || part.Bits() <= whole.Bits()) {
			problems = append(problems, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return problems
}

func policyWarnings(p *networkingv1.NetworkPolicy) (out []string) {
	peers := func(list []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i, peer := range list {
			if peer.IPBlock == nil {
				continue
			}
			at := at.Index(i).Child("ipBlock")
			out = append(out, cidrWarnings(peer.IPBlock.CIDR, at.Child("cidr"))...)
			for j, except := range peer.IPBlock.Except {
				out = append(out, cidrWarnings(except, at.Child("except").Index(j))...)
			}
		}
	}
	for i, rule := range p.Spec.Ingress {
		peers(rule.From, field.NewPath("spec", "ingress").Index(i).Child("from"))
	}
	for i, rule := range p.Spec.Egress {
		peers(rule.To, field.NewPath("spec", "egress").Index(i).Child("to"))
	}
	return out
}

// cidrWarnings says how a range should be written that is not wrong.
func cidrWarnings(cidr string, at *field.Path) []string {
	if len(validation.IsValidCIDRForLegacyField(at, cidr, true, nil)) > 0 {
		return nil
	}
	return validation.GetWarningsForCIDR(at, cidr)
}
