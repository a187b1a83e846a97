// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// cidr is the configured range of a family; not valid if there is none.
func (s *services) cidr(f corev1.IPFamily) netip.Prefix {
	for _, p := range s.cidrs {
		if familyOf(p.Addr()) == f {
			return p
		}
	}
	return netip.Prefix{}
}

func (s *services) dual() bool { return len(s.cidrs) > 1 }

func policyIs(s *corev1.Service, policy corev1.IPFamilyPolicy) bool {
	return s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == policy
}

// settle fills in ipFamilies and ipFamilyPolicy, and refuses families that this cluster lacks and what no allocation could help.
func (s *services) settle(service, old *corev1.Service) error {
	if len(service.Spec.ClusterIPs) == 0 && service.Spec.ClusterIP != "" {
		service.Spec.ClusterIPs = []string{service.Spec.ClusterIP}
	}
	if old != nil {
		dropSecond(service, old)
	}
	problems := core.ServiceAddressProblems(service)
	if len(problems) == 0 && hasAddress(service) {
		if old != nil && hasAddress(old) {
			problems = releaseProblems(service, old)
		}
		if len(problems) == 0 {
			problems = s.complete(service)
		}
	}
	if len(problems) > 0 {
		return apierrors.NewInvalid(core.Services.GroupVersionKind.GroupKind(), service.Name, problems)
	}
	return nil
}

// dropSecond takes the second family from a Service that shall have one and left the rest as it was.
func dropSecond(s, old *corev1.Service) {
	if !hasAddress(s) || !policyIs(s, corev1.IPFamilyPolicySingleStack) || old.Spec.IPFamilyPolicy == nil || policyIs(old, corev1.IPFamilyPolicySingleStack) {
		return
	}
	if len(s.Spec.ClusterIPs) == 2 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1:1]
	}
	if len(s.Spec.IPFamilies) == 2 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = s.Spec.IPFamilies[:1:1]
	}
}

// releaseProblems lets the second family go only with the policy that says so.
func releaseProblems(s, old *corev1.Service) (problems field.ErrorList) {
	p := s.Spec.IPFamilyPolicy
	if p == nil || *p == corev1.IPFamilyPolicySingleStack {
		return nil
	}
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(old.Spec.ClusterIPs) == 2 && len(s.Spec.ClusterIPs) == 1 {
		problems = append(problems, field.Invalid(at, *p, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(old.Spec.IPFamilies) == 2 && len(s.Spec.IPFamilies) == 1 {
		problems = append(problems, field.Invalid(at, *p, "must be 'SingleStack' to release the secondary IP family"))
	}
	return problems
}

// complete fills in policy and families of a Service whose own fields agree with each other.
func (s *services) complete(service *corev1.Service) (problems field.ErrorList) {
	spec, at := &service.Spec, field.NewPath("spec")
	selects := spec.ClusterIP != corev1.ClusterIPNone || len(spec.Selector) > 0
	asked := len(spec.IPFamilies)
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if !selects { // whose endpoints may be anywhere
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if policyIs(service, corev1.IPFamilyPolicySingleStack) {
		const multiple = "must be 'RequireDualStack' or 'PreferDualStack' when multiple %s are specified"
		switch {
		case len(spec.ClusterIPs) > 1:
			problems = append(problems, field.Invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, fmt.Sprintf(multiple, "cluster IPs")))
		case asked > 1:
			problems = append(problems, field.Invalid(at.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, fmt.Sprintf(multiple, "IP families")))
		}
	}
	for i, text := range spec.ClusterIPs {
		addr, err := netip.ParseAddr(text)
		if err != nil { // None
			continue
		}
		f := familyOf(addr)
		if !s.cidr(f).IsValid() {
			problems = append(problems, field.Invalid(at.Child("clusterIPs").Index(i), spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", f)))
		}
		if i >= len(spec.IPFamilies) {
			spec.IPFamilies = append(spec.IPFamilies, f)
		}
	}
	if selects && len(problems) == 0 {
		problems = s.unconfigured(service, asked)
	}
	if len(problems) > 0 {
		return problems
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{familyOf(s.cidrs[0].Addr())}
	}
	both := policyIs(service, corev1.IPFamilyPolicyRequireDualStack) || policyIs(service, corev1.IPFamilyPolicyPreferDualStack) && s.dual()
	if both && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = append(spec.IPFamilies[:1:1], otherFamily(spec.IPFamilies[0]))
	}
	return nil
}

// unconfigured finds what a Service asks for that this cluster has not: the families that it names are the first so many.
func (s *services) unconfigured(service *corev1.Service, named int) (problems field.ErrorList) {
	at := field.NewPath("spec")
	if policyIs(service, corev1.IPFamilyPolicyRequireDualStack) && !s.dual() {
		problems = append(problems, field.Invalid(at.Child("ipFamilyPolicy"), *service.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range service.Spec.IPFamilies[:named] {
		if !s.cidr(f).IsValid() && len(problems) == 0 {
			problems = append(problems, field.Invalid(at.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return problems
}
