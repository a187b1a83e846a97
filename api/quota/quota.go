// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package quota says what objects take of resource quotas. It is pure: admission checks with it before a write, and the
// quota loop sums up with it what is used.
package quota

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"

	"knarr.dev/api/resource"
)

// Usage is what one object takes of quotas, under all the names that a quota may give it.
//
// See https://kubernetes.io/docs/concepts/policy/resource-quotas/.
func Usage(kind *resource.Kind, o resource.Object, now time.Time) corev1.ResourceList {
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	counted := "count/" + kind.Resource
	if kind.Group != "" {
		counted += "." + kind.Group
	}
	usage := corev1.ResourceList{corev1.ResourceName(counted): one}
	switch o := o.(type) {
	case *corev1.Pod:
		podUsage(usage, o, now)
	case *corev1.Service:
		serviceUsage(usage, o)
	case *corev1.PersistentVolumeClaim:
		claimUsage(usage, o)
	case *resourcev1.ResourceClaim:
		deviceUsage(usage, o)
	case *corev1.ConfigMap, *corev1.Secret, *corev1.ReplicationController, *corev1.ResourceQuota:
		usage[corev1.ResourceName(kind.Resource)] = one
	}
	return usage
}

// Names are those names of a quota's amounts, in order, that objects of a kind can take of.
func Names(kind *resource.Kind, hard corev1.ResourceList) (names []corev1.ResourceName) {
	counted := "count/" + kind.Resource
	if kind.Group != "" {
		counted += "." + kind.Group
	}
	for name := range hard {
		if string(name) == counted || takenBy(kind, string(name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// takenBy tells whether objects of a kind take of something in another way than by being counted.
func takenBy(kind *resource.Kind, name string) bool {
	switch kind.Group + "/" + kind.Resource {
	case "/pods":
		return podName(name)
	case "/services":
		return name == "services" || name == "services.nodeports" || name == "services.loadbalancers"
	case "/persistentvolumeclaims":
		return name == "persistentvolumeclaims" || name == "requests.storage" ||
			strings.HasSuffix(name, ".storageclass.storage.k8s.io/persistentvolumeclaims") || strings.HasSuffix(name, ".storageclass.storage.k8s.io/requests.storage")
	case "resource.k8s.io/resourceclaims":
		return strings.HasSuffix(name, ".deviceclass.resource.k8s.io/devices")
	case "/configmaps", "/secrets", "/replicationcontrollers", "/resourcequotas":
		return name == kind.Resource
	}
	return false
}

func podName(name string) bool {
	switch name {
	case "pods", "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
		"limits.cpu", "limits.memory", "limits.ephemeral-storage":
		return true
	}
	if strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		return true
	}
	of, requests := strings.CutPrefix(name, corev1.DefaultResourceRequestsPrefix)
	return requests && (strings.Contains(of, "/") || strings.HasPrefix(of, corev1.ResourceHugePagesPrefix))
}

func podUsage(usage corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && now.After(pod.DeletionTimestamp.Time) {
		return // its node does not answer; it must not hold up its successor
	}
	usage[corev1.ResourcePods] = *apiresource.NewQuantity(1, apiresource.DecimalSI)
	options := podresources.PodResourcesOptions{}
	for name, quantity := range podresources.PodRequests(pod, options) {
		usage["requests."+name] = quantity
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			usage[name] = quantity
		}
	}
	for name, quantity := range podresources.PodLimits(pod, options) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			usage["limits."+name] = quantity
		}
	}
}

func serviceUsage(usage corev1.ResourceList, service *corev1.Service) {
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	usage[corev1.ResourceServices] = one
	ports := int64(len(service.Spec.Ports))
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		usage[corev1.ResourceServicesNodePorts] = *apiresource.NewQuantity(ports, apiresource.DecimalSI)
	case corev1.ServiceTypeLoadBalancer:
		usage[corev1.ResourceServicesLoadBalancers] = one
		if service.Spec.AllocateLoadBalancerNodePorts != nil && !*service.Spec.AllocateLoadBalancerNodePorts {
			ports = 0
			for i := range service.Spec.Ports {
				if service.Spec.Ports[i].NodePort != 0 {
					ports++
				}
			}
		}
		usage[corev1.ResourceServicesNodePorts] = *apiresource.NewQuantity(ports, apiresource.DecimalSI)
	}
}

func claimUsage(usage corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	storage := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	usage[corev1.ResourcePersistentVolumeClaims] = one
	usage[corev1.ResourceRequestsStorage] = storage
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	if class != "" {
		prefix := corev1.ResourceName(class + ".storageclass.storage.k8s.io/")
		usage[prefix+corev1.ResourcePersistentVolumeClaims] = one
		usage[prefix+corev1.ResourceRequestsStorage] = storage
	}
}

// deviceUsage counts the devices of each class, under both names: as many as a request may get at most.
func deviceUsage(usage corev1.ResourceList, claim *resourcev1.ResourceClaim) {
	for i := range claim.Spec.Devices.Requests {
		request, most := &claim.Spec.Devices.Requests[i], map[string]int64{}
		if e := request.Exactly; e != nil {
			most[e.DeviceClassName] = mostDevices(e.AllocationMode, e.Count)
		}
		for _, f := range request.FirstAvailable {
			most[f.DeviceClassName] = max(most[f.DeviceClassName], mostDevices(f.AllocationMode, f.Count))
		}
		for class, n := range most {
			for _, name := range []corev1.ResourceName{
				corev1.ResourceName(class + ".deviceclass.resource.k8s.io/devices"),
				corev1.ResourceName(corev1.DefaultResourceRequestsPrefix + resourcev1.ResourceDeviceClassPrefix + class),
			} {
				sum := usage[name]
				sum.Add(*apiresource.NewQuantity(n, apiresource.DecimalSI))
				usage[name] = sum
			}
		}
	}
}

func mostDevices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}

// Unspecified words which containers lack a request or limit that the quota counts: a pod without could not be counted.
func Unspecified(pod *corev1.Pod, hard corev1.ResourceList) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		resource, requests := name, true
		switch {
		case strings.HasPrefix(string(name), "requests."):
			resource = name[len("requests."):]
		case strings.HasPrefix(string(name), "limits."):
			resource, requests = name[len("limits."):], false
		}
		if resource != corev1.ResourceCPU && resource != corev1.ResourceMemory {
			continue
		}
		var without []string
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				specified := list[i].Resources.Limits
				if requests {
					specified = list[i].Resources.Requests
				}
				if _, ok := specified[resource]; !ok {
					without = append(without, list[i].Name)
				}
			}
		}
		if len(without) > 0 {
			slices.Sort(without)
			parts = append(parts, string(name)+" for: "+strings.Join(without, ","))
		}
	}
	return strings.Join(parts, "; ")
}

// InScope tells whether a quota's scopes select an object. Only pods have scopes, and claims that of their attributes class.
func InScope(quota *corev1.ResourceQuota, o resource.Object) bool {
	var wanted []corev1.ScopedResourceSelectorRequirement
	for _, scope := range quota.Spec.Scopes {
		wanted = append(wanted, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if quota.Spec.ScopeSelector != nil {
		wanted = append(wanted, quota.Spec.ScopeSelector.MatchExpressions...)
	}
	if len(wanted) == 0 {
		return true
	}
	for i := range wanted {
		if !Matches(&wanted[i], o) {
			return false
		}
	}
	return true
}

// Matches tells whether one scope selects an object.
func Matches(scope *corev1.ScopedResourceSelectorRequirement, o resource.Object) bool {
	switch o := o.(type) {
	case *corev1.Pod:
		return podInScope(o, scope)
	case *corev1.PersistentVolumeClaim:
		return claimInScope(o, scope)
	}
	return false
}

// HasScope tells whether a quota is about a scope.
func HasScope(quota *corev1.ResourceQuota, scope corev1.ResourceQuotaScope) bool {
	return slices.Contains(quota.Spec.Scopes, scope) || quota.Spec.ScopeSelector != nil &&
		slices.ContainsFunc(quota.Spec.ScopeSelector.MatchExpressions, func(m corev1.ScopedResourceSelectorRequirement) bool { return m.ScopeName == scope })
}

// claimInScope looks at the class that a claim asks for, the one that it has and the one that it is being brought to: it counts for all.
func claimInScope(claim *corev1.PersistentVolumeClaim, scope *corev1.ScopedResourceSelectorRequirement) bool {
	if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false
	}
	target := ""
	if m := claim.Status.ModifyVolumeStatus; m != nil {
		target = m.TargetVolumeAttributesClassName
	}
	named := false
	for _, name := range []string{deref(claim.Spec.VolumeAttributesClassName), deref(claim.Status.CurrentVolumeAttributesClassName), target} {
		if name != "" {
			if selects(scope, name) {
				return true
			}
			named = true
		}
	}
	return !named && selects(scope, "")
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func podInScope(pod *corev1.Pod, scope *corev1.ScopedResourceSelectorRequirement) bool {
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	case corev1.ResourceQuotaScopeNotTerminating:
		return pod.Spec.ActiveDeadlineSeconds == nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod)
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossNamespaceAffinity(pod.Spec.Affinity)
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(scope, pod.Spec.PriorityClassName)
	}
	return false
}

func selects(scope *corev1.ScopedResourceSelectorRequirement, value string) bool {
	switch scope.Operator {
	case corev1.ScopeSelectorOpExists:
		return value != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return value == ""
	case corev1.ScopeSelectorOpIn:
		return slices.Contains(scope.Values, value)
	case corev1.ScopeSelectorOpNotIn:
		return !slices.Contains(scope.Values, value)
	}
	return false
}

func bestEffort(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			for _, amounts := range []corev1.ResourceList{list[i].Resources.Requests, list[i].Resources.Limits} {
				for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
					if quantity, ok := amounts[name]; ok && !quantity.IsZero() {
						return false
					}
				}
			}
		}
	}
	return true
}

func crossNamespaceAffinity(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	crosses := func(t *corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	any := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) bool {
		return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return crosses(&t) }) ||
			slices.ContainsFunc(preferred, func(t corev1.WeightedPodAffinityTerm) bool { return crosses(&t.PodAffinityTerm) })
	}
	return a.PodAffinity != nil && any(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) ||
		a.PodAntiAffinity != nil && any(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
}

// Sum is what objects take of a quota: an amount for each name that it limits, 0 if nothing counts.
func Sum(q *corev1.ResourceQuota, kinds map[*resource.Kind]iter.Seq[resource.Object], now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{}
	for name, limit := range q.Spec.Hard {
		used[name] = apiresource.Quantity{Format: limit.Format}
	}
	for kind, objects := range kinds {
		for o := range objects {
			if !InScope(q, o) {
				continue
			}
			for name, quantity := range Usage(kind, o, now) {
				if sum, ok := used[name]; ok {
					sum.Add(quantity)
					used[name] = sum
				}
			}
		}
	}
	return used
}
