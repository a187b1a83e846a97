// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"math"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// healthMessageMax bounds what is said of the health of a device.
const healthMessageMax = 1024

// dropOffStatus removes what belongs to features that are off.
func dropOffStatus(s *corev1.PodStatus) {
	s.NodeAllocatableResourceClaimStatuses = nil
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for j := range list[i].VolumeMounts {
				list[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}

// validatePodStatus checks a new status; containers that ended for good may not start again.
func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	if len(podStatusProblems(p, old, nil)) == 0 { // paths cost more than looking
		return nil
	}
	return podStatusProblems(p, old, field.NewPath("status"))
}

func podStatusProblems(p, old *corev1.Pod, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if p.Spec.NodeName != old.Spec.NodeName {
		problems = append(problems, field.Forbidden(at.Child("nodeName"), "may not be changed directly"))
	}
	problems = append(problems, validateConditions(p.Status.Conditions, under(at, "conditions"))...)
	if p.Status.NominatedNodeName != "" {
		problems = append(problems, subdomain(p.Status.NominatedNodeName, at.Child("nominatedNodeName"))...)
	}
	if p.Status.ObservedGeneration < 0 {
		problems = append(problems, field.Invalid(at.Child("observedGeneration"), p.Status.ObservedGeneration, "must be a non-negative integer"))
	}
	if p.Status.QOSClass != old.Status.QOSClass && old.Status.QOSClass != "" {
		problems = append(problems, field.Invalid(at.Child("qosClass"), p.Status.QOSClass, apivalidation.FieldImmutableErrorMsg))
	}
	problems = append(problems, validateTransitions(p, old, at)...)
	problems = append(problems, validateClaimStatuses(p, under(at, "resourceClaimStatuses"))...)
	problems = append(problems, validateExtendedClaim(p, under(at, "extendedResourceClaimStatus"))...)
	ips := make([]string, len(p.Status.PodIPs))
	for i, ip := range p.Status.PodIPs {
		ips[i] = ip.IP
	}
	problems = append(problems, validateIPs(ips, p.Status.PodIPs, under(at, "podIPs"))...)
	problems = append(problems, validateHostIPs(&p.Status, at)...)
	return append(problems, validateContainerStatuses(p, at)...)
}

func validateConditions(conditions []corev1.PodCondition, at *field.Path) (problems field.ErrorList) {
	for i := range conditions {
		c, at := &conditions[i], nth(at, i)
		if c.ObservedGeneration < 0 {
			problems = append(problems, field.Invalid(at.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		for _, m := range validation.IsQualifiedName(string(c.Type)) {
			problems = append(problems, field.Invalid(at.Child("Type"), string(c.Type), m))
		}
	}
	return problems
}

func validateClaimStatuses(p *corev1.Pod, at *field.Path) (problems field.ErrorList) {
	known, seen := sets.New[string](), sets.New[string]()
	for _, c := range p.Spec.ResourceClaims {
		known.Insert(c.Name)
	}
	for i, s := range p.Status.ResourceClaimStatuses {
		at := at.Index(i)
		switch {
		case !known.Has(s.Name):
			problems = append(problems, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		case seen.Has(s.Name):
			problems = append(problems, field.Duplicate(at.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			problems = append(problems, subdomain(*s.ResourceClaimName, at.Child("resourceClaimName"))...)
		}
	}
	return problems
}

// validateExtendedClaim checks what says which claim stands for the extended resources of containers.
func validateExtendedClaim(p *corev1.Pod, at *field.Path) (problems field.ErrorList) {
	s := p.Status.ExtendedResourceClaimStatus
	if s == nil {
		return nil
	}
	requests := map[string]corev1.ResourceList{}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			requests[list[i].Name] = list[i].Resources.Requests
		}
	}
	if len(s.RequestMappings) == 0 {
		problems = append(problems, field.Required(at.Child("requestMappings"), "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range s.RequestMappings {
		at, requestAt := at.Child("requestMappings").Index(i), at.Child("requestName")
		if list, ok := requests[m.ContainerName]; !ok {
			problems = append(problems, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := list[corev1.ResourceName(m.ResourceName)]; !ok {
			problems = append(problems, field.Invalid(at.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		problems = append(problems, dnsLabel(m.RequestName, requestAt)...)
		if seen.Has(m) {
			problems = append(problems, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if s.ResourceClaimName == "" {
		return append(problems, field.Required(at.Child("resourceClaimName"), ""))
	}
	return append(problems, subdomain(s.ResourceClaimName, at.Child("resourceClaimName"))...)
}

// validateIPs allows one address of each family; whole is the list as it is shown.
func validateIPs(ips []string, whole any, at *field.Path) (problems field.ErrorList) {
	families := map[bool]bool{}
	bad := -1
	for i, ip := range ips {
		problems = append(problems, validation.IsValidIPForLegacyField(nth(at, i), ip, true, nil)...)
		if parsed := net.ParseIP(ip); parsed != nil {
			families[parsed.To4() == nil] = true
		} else if bad < 0 {
			bad = i
		}
	}
	if len(ips) < 2 {
		return problems
	}
	if bad >= 0 {
		problems = append(problems, field.InternalError(at, fmt.Errorf("failed to check for dual stack with error:invalid IP[%d]: %s", bad, ips[bad])))
	}
	if bad >= 0 || len(ips) > 2 || len(families) < 2 {
		problems = append(problems, field.Invalid(at, shown{whole}, "may specify no more than one IP for each IP family"))
	}
	return problems
}

func validateHostIPs(s *corev1.PodStatus, at *field.Path) (problems field.ErrorList) {
	if len(s.HostIPs) == 0 {
		return nil
	}
	if s.HostIPs[0].IP != s.HostIP {
		problems = append(problems, field.Invalid(at.Child("hostIPs").Index(0).Child("ip"), s.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	ips := make([]string, len(s.HostIPs))
	for i, ip := range s.HostIPs {
		ips[i] = ip.IP
	}
	return append(problems, validateIPs(ips, s.HostIPs, at.Child("hostIPs"))...)
}

// validateContainerStatuses checks as whom containers run, and then how their devices are.
func validateContainerStatuses(p *corev1.Pod, at *field.Path) (problems field.ErrorList) {
	lists := []struct {
		name     string
		statuses []corev1.ContainerStatus
		spec     []corev1.Container
	}{
		{"containerStatuses", p.Status.ContainerStatuses, p.Spec.Containers},
		{"initContainerStatuses", p.Status.InitContainerStatuses, p.Spec.InitContainers},
		{"ephemeralContainerStatuses", p.Status.EphemeralContainerStatuses, nil},
	}
	for _, l := range lists {
		for i := range l.statuses {
			problems = append(problems, validateUser(l.statuses[i].User, under(nth(under(at, l.name), i), "user"))...)
		}
	}
	for _, l := range lists {
		for i := range l.statuses {
			health, at := l.statuses[i].AllocatedResourcesStatus, under(nth(under(at, l.name), i), "allocatedResourcesStatus")
			if l.name == "ephemeralContainerStatuses" && len(health) > 0 {
				problems = append(problems, field.Forbidden(at, "must not be specified in container status"))
				continue
			}
			problems = append(problems, validateHealth(health, containerNamed(l.spec, l.statuses[i].Name), at)...)
		}
	}
	return problems
}

func containerNamed(list []corev1.Container, name string) *corev1.Container {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func validateUser(u *corev1.ContainerUser, at *field.Path) (problems field.ErrorList) {
	if u == nil || u.Linux == nil {
		return nil
	}
	check := func(id int64, at *field.Path) {
		if id < 0 || id > math.MaxInt32 {
			problems = append(problems, field.Invalid(at, id, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	at = at.Child("linux")
	check(u.Linux.UID, at.Child("uid"))
	check(u.Linux.GID, at.Child("gid"))
	for i, id := range u.Linux.SupplementalGroups {
		check(id, at.Child("supplementalGroups").Index(i))
	}
	return problems
}

// validateHealth checks the health of the devices of a container; of one that is not in the spec nothing is known (c is nil).
func validateHealth(list []corev1.ResourceStatus, c *corev1.Container, at *field.Path) (problems field.ErrorList) {
	for i, r := range list {
		at := at.Index(i)
		if claim := strings.HasPrefix(string(r.Name), "claim:"); c != nil && claim && !hasClaim(c, string(r.Name)) {
			problems = append(problems, field.Invalid(at.Child("name"), r.Name,
				"must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"))
		} else if _, requested := requestsOf(c)[r.Name]; c != nil && !claim && !requested {
			problems = append(problems, field.Invalid(at.Child("name"), r.Name, "must match one of the container's resource requests"))
		}
		seen := sets.New[corev1.ResourceID]()
		for j, d := range r.Resources {
			at := at.Child("resources").Index(j)
			problems = append(problems, allowed(at.Child("health"), d.Health,
				corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
			if d.Message != nil && *d.Message == "" {
				problems = append(problems, field.Required(at.Child("message"), "must be non-empty if specified"))
			}
			if d.Message != nil && len(*d.Message) > healthMessageMax {
				problems = append(problems, field.TooLong(at.Child("message"), "", healthMessageMax))
			}
			if seen.Has(d.ResourceID) {
				problems = append(problems, field.Duplicate(at.Child("resourceID"), d.ResourceID))
			}
			seen.Insert(d.ResourceID)
		}
	}
	return problems
}

func requestsOf(c *corev1.Container) corev1.ResourceList {
	if c == nil {
		return nil
	}
	return c.Resources.Requests
}

func hasClaim(c *corev1.Container, name string) bool {
	for _, claim := range c.Resources.Claims {
		text := "claim:" + claim.Name
		if claim.Request != "" {
			text += "/" + claim.Request
		}
		if text == name {
			return true
		}
	}
	return false
}

// validateTransitions refuses to run containers again that the restart policy leaves ended.
func validateTransitions(p, old *corev1.Pod, at *field.Path) (problems field.ErrorList) {
	check := func(now, then []corev1.ContainerStatus, spec []corev1.Container, at *field.Path) {
		for i, was := range then {
			if was.State.Terminated == nil || was.State.Terminated.ExitCode != 0 && old.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
				continue
			}
			for _, c := range spec {
				if c.Name == was.Name && c.RestartPolicy != nil {
					return
				}
			}
			for _, is := range now {
				if is.Name == was.Name && is.State.Terminated == nil {
					problems = append(problems, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
				}
			}
		}
	}
	if old.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		check(p.Status.ContainerStatuses, old.Status.ContainerStatuses, old.Spec.Containers, under(at, "containerStatuses"))
		check(p.Status.InitContainerStatuses, old.Status.InitContainerStatuses, old.Spec.InitContainers, under(at, "initContainerStatuses"))
	}
	return problems
}
