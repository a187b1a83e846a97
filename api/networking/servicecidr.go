// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// ServiceCIDRs are where Services get their addresses from.
var ServiceCIDRs = resource.WithList(resource.Define(resource.Definition[networkingv1.ServiceCIDR]{
	Group: "networking.k8s.io", Version: "v1", Kind: "ServiceCIDR", Resource: "servicecidrs",
	Scope:         resource.Cluster,
	StoragePath:   "servicecidrs",
	PrepareCreate: func(c *networkingv1.ServiceCIDR) { c.Status = networkingv1.ServiceCIDRStatus{} },
	PrepareUpdate: func(c, old *networkingv1.ServiceCIDR) { c.Status = *old.Status.DeepCopy() },
	ValidateCreate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
		return validateCIDRs(c.Spec.CIDRs, field.NewPath("spec", "cidrs"))
	},
	ValidateUpdate: validateCIDRsChange,
	Columns: []resource.Column[networkingv1.ServiceCIDR]{
		{Name: "CIDRs", Value: func(c *networkingv1.ServiceCIDR, _ time.Time) any { return strings.Join(c.Spec.CIDRs, ",") }},
	},
	Subresources: resource.Subresources[networkingv1.ServiceCIDR]{
		Status: &resource.Status[networkingv1.ServiceCIDR]{Prepare: func(c, old *networkingv1.ServiceCIDR) {
			status := c.Status
			*c = *old.DeepCopy()
			c.Status = status
		}, KeepMetadata: true},
	},
}), func() runtime.Object { return new(networkingv1.ServiceCIDRList) })

func validateCIDRs(cidrs []string, at *field.Path) (problems field.ErrorList) {
	switch len(cidrs) {
	case 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case 1, 2:
	default:
		return field.ErrorList{field.Invalid(at, core.Shown(networkingv1.ServiceCIDRSpec{CIDRs: cidrs}), "may only hold up to 2 values")}
	}
	for i, cidr := range cidrs {
		problems = append(problems, validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	if len(problems) == 0 && len(cidrs) == 2 && strings.Contains(cidrs[0], ":") == strings.Contains(cidrs[1], ":") {
		problems = append(problems, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return problems
}

// validateCIDRsChange lets the other family be added, nothing else.
func validateCIDRsChange(c, old *networkingv1.ServiceCIDR) (problems field.ErrorList) {
	now, was, at := c.Spec.CIDRs, old.Spec.CIDRs, field.NewPath("spec", "cidrs")
	if len(now) == 2 && len(was) == 1 {
		problems = append(problems, core.Immutable(now[0], was[0], at.Index(0))...)
		return append(problems, validateCIDRs(now, at)...)
	}
	if len(now) != len(was) {
		return core.Immutable(now, was, at)
	}
	for i := range now {
		problems = append(problems, core.Immutable(now[i], was[i], at.Index(i))...)
	}
	return problems
}
