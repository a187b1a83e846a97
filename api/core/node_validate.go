// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// samePodCIDRs keeps podCIDR and the first of podCIDRs the same.
func samePodCIDRs(s *corev1.NodeSpec) {
	switch {
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	problems := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	problems = append(problems, validateNodeStatus(n)...)
	return append(problems, validatePodCIDRs(n.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
}

func validateTaints(taints []corev1.Taint, at *field.Path) (problems field.ErrorList) {
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[identity]bool{}
	for i := range taints {
		t, at := &taints[i], at.Index(i)
		problems = append(problems, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		for _, m := range validation.IsValidLabelValue(t.Value) {
			problems = append(problems, field.Invalid(at.Child("value"), t.Value, m))
		}
		if t.Effect == "" {
			problems = append(problems, field.Required(at.Child("effect"), ""))
		} else {
			problems = append(problems, allowed(at.Child("effect"), t.Effect,
				corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		}
		id := identity{t.Key, t.Effect}
		if seen[id] {
			again := field.Duplicate(at, shown{t})
			again.Detail = "taints must be unique by key and effect pair"
			problems = append(problems, again)
		}
		seen[id] = true
	}
	return problems
}

func validatePodCIDRs(cidrs []string, at *field.Path) (problems field.ErrorList) {
	families := map[bool]bool{}
	var bad error
	for i, cidr := range cidrs {
		problems = append(problems, validation.IsValidCIDRForLegacyField(at.Index(i), cidr, true, nil)...)
		if ip, _, err := net.ParseCIDR(cidr); err == nil {
			families[ip.To4() == nil] = true
		} else if bad == nil {
			bad = fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[%d]: <nil> (%w)", i, err)
		}
	}
	if len(cidrs) < 2 {
		return problems
	}
	if bad != nil {
		problems = append(problems, field.InternalError(at, bad))
	}
	if bad != nil || len(cidrs) > 2 || len(families) < 2 {
		problems = append(problems, field.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return problems
}

// featureName is the form of features that nodes declare, such as MyFeature/mySubFeature.
var featureName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Z][A-Za-z0-9]*(/[A-Za-z][A-Za-z0-9]*)*$`) })

// validateNodeStatus checks amounts and features.
func validateNodeStatus(n *corev1.Node) (problems field.ErrorList) {
	for _, list := range []struct {
		name   string
		amount corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range slices.Sorted(maps.Keys(list.amount)) {
			q, at := list.amount[name], field.NewPath("status", list.name, string(name))
			if q.Sign() < 0 {
				problems = append(problems, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg))
			}
			if isInteger(name) && q.MilliValue()%1000 != 0 {
				problems = append(problems, field.Invalid(at, q.String(), mustBeInteger))
			}
		}
	}
	features := n.Status.DeclaredFeatures
	for i, name := range features {
		at := field.NewPath("status", "declaredFeatures").Index(i)
		if i > 0 && name == features[i-1] {
			problems = append(problems, field.Duplicate(at, name))
		} else if i > 0 && name < features[i-1] {
			problems = append(problems, field.Invalid(at, name, "list must be sorted alphabetically"))
		}
		if !featureName().MatchString(name) {
			problems = append(problems, field.Invalid(at, name, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with "+
				"subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", name)))
		}
	}
	return problems
}

// sameAddresses finds addresses that are listed again.
func sameAddresses(n *corev1.Node) (problems field.ErrorList) {
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			problems = append(problems, field.Duplicate(field.NewPath("status", "addresses").Index(i), shown{a}))
		}
		seen[a] = true
	}
	return problems
}

func validateNodeUpdate(n, old *corev1.Node) (problems field.ErrorList) {
	at := field.NewPath("spec")
	problems = validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints")) // which validateNode did, and Kubernetes does again
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		problems = append(problems, field.Forbidden(at.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		problems = append(problems, field.Forbidden(at.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		return append(problems, field.Forbidden(at.Child("externalID"), "may not be updated"))
	}
	rest := n.Spec.DeepCopy()
	rest.PodCIDR, rest.PodCIDRs, rest.ProviderID = old.Spec.PodCIDR, old.Spec.PodCIDRs, old.Spec.ProviderID
	rest.Unschedulable, rest.Taints, rest.ConfigSource = old.Spec.Unschedulable, old.Spec.Taints, old.Spec.ConfigSource
	if !equality.Semantic.DeepEqual(rest, &old.Spec) {
		problems = append(problems, field.Forbidden(at, "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)"))
	}
	return problems
}

func nodeWarnings(n *corev1.Node) (out []string) {
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return out
}

// kernel is the kernel's version with the architecture of the machine.
func kernel(n *corev1.Node) string {
	text := orUnknown(n.Status.NodeInfo.KernelVersion)
	if arch := n.Status.NodeInfo.Architecture; arch != "" {
		text += " (" + strings.TrimSpace(arch) + ")"
	}
	return text
}
