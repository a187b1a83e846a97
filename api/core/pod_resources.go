// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Messages that rules of several kinds share.
const (
	mustBeInteger = "must be an integer"
	notQualified  = "must be a standard resource type or fully qualified"
)

// isStandardResource tells the names without a domain, of quotas too.
func isStandardResource(name string) bool {
	switch name {
	case "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
		"limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods", "resourcequotas", "services", "replicationcontrollers",
		"secrets", "configmaps", "persistentvolumeclaims", "storage", "requests.storage", "services.nodeports", "services.loadbalancers":
		return true
	}
	return false
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNative tells whether Kubernetes itself defines a resource.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended tells whether a resource is one that nodes advertise under a domain of their own.
func isExtended(name corev1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

func isContainerResource(name string) bool {
	switch name {
	case "cpu", "memory", "ephemeral-storage":
		return true
	}
	return isHugePages(corev1.ResourceName(name))
}

// isInteger tells whether a resource comes in whole pieces.
func isInteger(name corev1.ResourceName) bool {
	switch name {
	case "pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims",
		"services.nodeports", "services.loadbalancers":
		return true
	}
	return isExtended(name) || strings.HasPrefix(string(name), "count/")
}

// overcommits tells whether requests of a resource may be below its limits.
func overcommits(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

func validateResourceName(name string, at *field.Path) (problems field.ErrorList) {
	if isStandardResource(name) {
		return nil
	}
	for _, m := range validation.IsQualifiedName(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	if len(problems) == 0 && !strings.Contains(name, "/") && !isHugePages(corev1.ResourceName(name)) {
		problems = append(problems, field.Invalid(at, name, notQualified))
	}
	return problems
}

func validateContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	problems := validateResourceName(string(name), at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !isContainerResource(string(name)) {
			problems = append(problems, field.Invalid(at, name, "must be a standard resource for containers"))
		}
	case !isNative(name) && !isExtended(name):
		problems = append(problems, field.Invalid(at, name, "doesn't follow extended resource name standard"))
	}
	return problems
}

func validateQuantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	if q.Sign() < 0 {
		problems = append(problems, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg))
	}
	if isInteger(name) && q.MilliValue()%1000 != 0 {
		problems = append(problems, field.Invalid(at, q.String(), mustBeInteger))
	}
	if isHugePages(name) {
		problems = append(problems, validateHugePages(name, q, at)...)
	}
	return problems
}

func validateHugePages(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 {
		return nil
	}
	if q.Sign() > 0 && q.Value()%size.Value() != 0 {
		return field.ErrorList{field.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))}
	}
	return nil
}

// validateResources checks what a container or a pod asks for; named checks the names of resources.
func validateResources(r *corev1.ResourceRequirements, named func(corev1.ResourceName, *field.Path) field.ErrorList, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	processor, huge := false, false
	note := func(name corev1.ResourceName) {
		processor = processor || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		huge = huge || isHugePages(name)
	}
	var room [8]corev1.ResourceName
	for _, name := range sortedNames(room[:0], r.Limits) {
		q, at := r.Limits[name], keyed(under(at, "limits"), string(name))
		problems = append(problems, named(name, at)...)
		problems = append(problems, validateQuantity(name, q, at)...)
		note(name)
	}
	for _, name := range sortedNames(room[:0], r.Requests) {
		key := keyed(under(at, "requests"), string(name))
		problems = append(problems, named(name, key)...)
		problems = append(problems, validateQuantity(name, r.Requests[name], key)...)
		problems = append(problems, validateRequest(name, r, at)...)
		note(name)
	}
	if huge && !processor {
		problems = append(problems, field.Forbidden(at, "HugePages require cpu or memory"))
	}
	return problems
}

// sortedNames appends the names of resources in their order.
func sortedNames(dst []corev1.ResourceName, list corev1.ResourceList) []corev1.ResourceName {
	for name := range list {
		dst = append(dst, name)
	}
	slices.Sort(dst)
	return dst
}

// validateRequest compares one request with its limit.
func validateRequest(name corev1.ResourceName, r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	q := r.Requests[name]
	limit, limited := r.Limits[name]
	switch {
	case !limited && !overcommits(name):
		return field.ErrorList{field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources")}
	case limited && !overcommits(name) && q.Cmp(limit) != 0:
		return field.ErrorList{field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))}
	case limited && q.Cmp(limit) > 0:
		return field.ErrorList{field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))}
	}
	return nil
}

func validateClaimNames(claims []corev1.ResourceClaim, known sets.Set[string], at *field.Path) (problems field.ErrorList) {
	seen := sets.New[corev1.ResourceClaim]()
	for i, c := range claims {
		at := nth(at, i)
		switch {
		case c.Name == "":
			problems = append(problems, field.Required(at, ""))
			continue
		case seen.Has(c):
			problems = append(problems, field.Duplicate(at, c.Name))
		}
		seen.Insert(c)
		if !known.Has(c.Name) {
			e := field.NotFound(at, c.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(known) == 0 {
				e.Detail += " which is empty"
			} else {
				e.Detail += ": " + strings.Join(sets.List(known), ", ")
			}
			problems = append(problems, e)
		}
	}
	return problems
}

// validatePodClaims checks a pod's resource claims and returns their names.
func validatePodClaims(claims []corev1.PodResourceClaim, at *field.Path) (sets.Set[string], field.ErrorList) {
	names := sets.New[string]()
	var problems field.ErrorList
	for i := range claims {
		c, at := &claims[i], nth(at, i)
		switch {
		case c.Name == "":
			problems = append(problems, field.Required(at.Child("name"), ""))
		case names.Has(c.Name):
			problems = append(problems, field.Duplicate(at.Child("name"), c.Name))
		default:
			problems = append(problems, dnsLabel(c.Name, under(at, "name"))...)
		}
		names.Insert(c.Name)
		switch direct, template := c.ResourceClaimName, c.ResourceClaimTemplateName; {
		case direct != nil && template != nil:
			problems = append(problems, field.Invalid(at, shown{c}, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case direct == nil && template == nil:
			problems = append(problems, field.Invalid(at, shown{c}, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		case direct != nil:
			problems = append(problems, subdomain(*direct, under(at, "resourceClaimName"))...)
		default:
			problems = append(problems, subdomain(*template, under(at, "resourceClaimTemplateName"))...)
		}
	}
	return names, problems
}

// validatePodResources checks the requests and limits of a pod as a whole.
func validatePodResources(s *corev1.PodSpec, claims sets.Set[string], at *field.Path) field.ErrorList {
	r := s.Resources
	if r == nil {
		return nil
	}
	var problems field.ErrorList
	if r.Claims != nil {
		problems = append(problems, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	problems = append(problems, validateResources(r, validatePodResourceName, at)...)
	problems = append(problems, validateClaimNames(r.Claims, claims, under(at, "claims"))...)
	return append(problems, validatePodSums(s, r, at)...)
}

// forPods tells whether a pod as a whole can ask for a resource.
func forPods(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || isHugePages(name)
}

func validatePodResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	problems := validateResourceName(string(name), at)
	if len(problems) == 0 && !forPods(name) {
		problems = append(problems, field.NotSupported(at, name, []corev1.ResourceName{"cpu", "hugepages-", "memory"}))
	}
	return problems
}

// validatePodSums compares what the containers ask for in all with what the pod does.
func validatePodSums(s *corev1.PodSpec, r *corev1.ResourceRequirements, at *field.Path) (problems field.ErrorList) {
	total := containerSums(s, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests })
	for _, name := range slices.Sorted(maps.Keys(total)) {
		sum := total[name]
		if q, ok := r.Requests[name]; ok && sum.Cmp(q) > 0 {
			problems = append(problems, field.Invalid(at.Child("requests").Key(string(name)), q.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	for i := range s.Containers {
		limits := s.Containers[i].Resources.Limits
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			limit := limits[name]
			if q, ok := r.Limits[name]; ok && limit.Cmp(q) > 0 {
				problems = append(problems, field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", q.String())))
			}
		}
	}
	return problems
}

// containerSums is what all containers of a pod ask for at most at a time: init containers run one after the other, beside the
// sidecars before them.
func containerSums(s *corev1.PodSpec, of func(*corev1.ResourceRequirements) corev1.ResourceList) corev1.ResourceList {
	total, sidecars, most := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range s.Containers {
		addAll(total, of(&s.Containers[i].Resources))
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		at := maps.Clone(sidecars)
		if addAll(at, of(&c.Resources)); sidecar(c) {
			addAll(total, of(&c.Resources))
			sidecars = at
		}
		atLeast(most, at)
	}
	atLeast(total, most)
	return total
}

func atLeast(list, other corev1.ResourceList) {
	for name, q := range other {
		if has, ok := list[name]; !ok || q.Cmp(has) > 0 {
			list[name] = q.DeepCopy()
		}
	}
}

func addAll(total, more corev1.ResourceList) {
	for name, q := range more {
		sum := total[name]
		sum.Add(q)
		total[name] = sum
	}
}

func validateResizePolicy(c *corev1.Container, podRestarts corev1.RestartPolicy, at *field.Path) (problems field.ErrorList) {
	seen := sets.New[corev1.ResourceName]()
	for _, p := range c.ResizePolicy {
		if seen.Has(p.ResourceName) {
			problems = append(problems, field.Duplicate(at, p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		problems = append(problems, oneOf(at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		problems = append(problems, oneOf(at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if podRestarts == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			problems = append(problems, field.Invalid(at, p.RestartPolicy, fmt.Sprintf("must be '%s' when pod `restartPolicy` is '%s'", corev1.NotRequired, podRestarts)))
		}
	}
	return problems
}
