// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// Pods are groups of containers that share a network and live and die together.
var Pods = resource.WithList(resource.Define(resource.Definition[corev1.Pod]{
	Group: "", Version: "v1", Kind: "Pod", Resource: "pods",
	ShortNames: []string{"po"},
	Categories: []string{"all"},
	Scope:      resource.Namespaced,
	Default:    defaultPod,
	Share:      sharePod,
	PrepareCreate: func(p *corev1.Pod) {
		p.Generation = 1
		syncAppArmor(&p.ObjectMeta, &p.Spec)
		p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOS(&p.Spec)}
		if len(p.Spec.SchedulingGates) > 0 {
			p.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
				Message: "Scheduling is blocked due to non-empty scheduling gates", LastTransitionTime: p.CreationTimestamp,
			}}
		}
	},
	PrepareUpdate: func(p, old *corev1.Pod) {
		p.Status = old.Status // which nobody changes
		p.Generation = old.Generation
		if p.Spec.Priority == nil { // which admission filled in
			p.Spec.Priority = old.Spec.Priority
		}
		if p.Spec.PreemptionPolicy == nil {
			p.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
		}
		if !SamePodSpec(&p.Spec, &old.Spec) {
			p.Generation++
		}
	},
	Validate:       validatePod,
	Revalidate:     revalidatePod,
	ValidateCreate: validatePodCreate,
	ValidateUpdate: validatePodUpdate,
	Warnings:       podWarnings,
	WarningsUpdate: func(_, _ *corev1.Pod) []string { return nil },
	WarningsCreate: func(p *corev1.Pod) []string { return nameWarnings(p.Name, "in the Pod's hostname") },
	Columns:        podColumns,
	Fields:         podFields,
	FieldNames: []string{
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName",
	},
	Grace: podGrace,
	Subresources: resource.Subresources[corev1.Pod]{
		Status: &resource.Status[corev1.Pod]{Prepare: func(obj, old *corev1.Pod) {
			status := obj.Status
			*obj = *old // which nobody changes
			obj.Status = status
			if old.Status.QOSClass != "" && obj.Status.QOSClass == "" {
				obj.Status.QOSClass = old.Status.QOSClass
			}
			samePodIPs(&obj.Status)
			dropOffStatus(&obj.Status)
		}, Validate: validatePodStatus, Default: defaultPodStatus, Copy: func(p *corev1.Pod) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: *p.ObjectMeta.DeepCopy(), Spec: p.Spec, Status: *p.Status.DeepCopy()}
		}},
		Others: []resource.Subresource{
			{Name: "attach", Kind: coreKind("PodAttachOptions"), Verbs: []string{"create", "get"}},
			{Name: "binding", Kind: coreKind("Binding"), Verbs: []string{"create"}},
			{Name: "ephemeralcontainers", Kind: coreKind("Pod"), Verbs: []string{"get", "patch", "update"}},
			{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}},
			{Name: "exec", Kind: coreKind("PodExecOptions"), Verbs: []string{"create", "get"}},
			{Name: "log", Kind: coreKind("Pod"), Verbs: []string{"get"}},
			{Name: "portforward", Kind: coreKind("PodPortForwardOptions"), Verbs: []string{"create", "get"}},
			{Name: "proxy", Kind: coreKind("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
			{Name: "resize", Kind: coreKind("Pod"), Verbs: []string{"get", "patch", "update"}},
		},
	},
}), func() runtime.Object { return new(corev1.PodList) })

func coreKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: "v1", Kind: kind}
}

// podGrace is how long a pod may take to end: what was asked or what it says itself, but nothing if it never ran or runs no more.
func podGrace(p *corev1.Pod, asked *int64) int64 {
	grace := int64(0)
	switch {
	case asked != nil:
		if grace = *asked; grace < 0 { // as in pods' specs
			grace = 1
		}
	case p.Spec.TerminationGracePeriodSeconds != nil:
		grace = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return 0
	}
	return grace
}

func podFields(p *corev1.Pod) fields.Set {
	hostNetwork := "false"
	if p.Spec.HostNetwork {
		hostNetwork = "true"
	}
	ip := p.Status.PodIP
	if ip == "" && len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         hostNetwork,
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.podIPs":            ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}
