// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Nodes run pods.
var Nodes = resource.WithList(resource.Define(resource.Definition[corev1.Node]{
	Group: "", Version: "v1", Kind: "Node", Resource: "nodes",
	ShortNames:  []string{"no"},
	Scope:       resource.Cluster,
	StoragePath: "minions",
	Default: func(n *corev1.Node) {
		samePodCIDRs(&n.Spec)
		if n.Status.Capacity != nil && len(n.Status.Allocatable) == 0 {
			n.Status.Allocatable = n.Status.Capacity.DeepCopy()
		}
		for i := range n.Status.Images {
			if len(n.Status.Images[i].Names) == 0 {
				n.Status.Images[i].Names = nil // as it comes back from where it is stored
			}
		}
	},
	PrepareCreate: func(n *corev1.Node) { n.Spec.ConfigSource, n.Status.Config = nil, nil },
	PrepareUpdate: func(n, old *corev1.Node) {
		n.Status = *old.Status.DeepCopy()
		n.Spec.ConfigSource = old.Spec.ConfigSource
	},
	Validate:       validateNode,
	ValidateUpdate: validateNodeUpdate,
	Warnings:       nodeWarnings,
	Columns: []resource.Column[corev1.Node]{
		{Name: "Status", Value: func(n *corev1.Node, _ time.Time) any { return nodeStatusText(n) }},
		{Name: "Roles", Value: func(n *corev1.Node, _ time.Time) any { return nodeRoles(n) }},
		{Name: "Age", Value: func(n *corev1.Node, now time.Time) any { return age(n.CreationTimestamp, now) }},
		{Name: "Version", Value: func(n *corev1.Node, _ time.Time) any { return n.Status.NodeInfo.KubeletVersion }},
		{Name: "Internal-IP", Wide: true, Value: func(n *corev1.Node, _ time.Time) any { return nodeAddress(n, corev1.NodeInternalIP) }},
		{Name: "External-IP", Wide: true, Value: func(n *corev1.Node, _ time.Time) any { return nodeAddress(n, corev1.NodeExternalIP) }},
		{Name: "OS-Image", Wide: true, Value: func(n *corev1.Node, _ time.Time) any { return orUnknown(n.Status.NodeInfo.OSImage) }},
		{Name: "Kernel-Version", Wide: true, Value: func(n *corev1.Node, _ time.Time) any { return kernel(n) }},
		{Name: "Container-Runtime", Wide: true, Value: func(n *corev1.Node, _ time.Time) any {
			return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion)
		}},
	},
	Fields: func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
	},
	FieldNames: []string{"spec.unschedulable"},
	Subresources: resource.Subresources[corev1.Node]{
		Status: &resource.Status[corev1.Node]{Prepare: func(obj, old *corev1.Node) {
			status, labels, annotations := obj.Status, obj.Labels, obj.Annotations
			fieldsOwned := obj.ManagedFields
			*obj = *old.DeepCopy()
			obj.Status, obj.Labels, obj.Annotations, obj.ManagedFields = status, labels, annotations, fieldsOwned
			obj.Status.Config = old.Status.Config // no node has got its configuration from the API for long
		}, Validate: func(obj, _ *corev1.Node) field.ErrorList {
			return append(validateNodeStatus(obj), sameAddresses(obj)...)
		}},
		Others: []resource.Subresource{
			{Name: "proxy", Kind: coreKind("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
		},
	},
}), func() runtime.Object { return new(corev1.NodeList) })

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func nodeStatusText(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) string {
	var roles []string
	for key, value := range n.Labels {
		switch role, found := strings.CutPrefix(key, "node-role.kubernetes.io/"); {
		case found && role != "":
			roles = append(roles, role)
		case key == "kubernetes.io/role" && value != "":
			roles = append(roles, value)
		}
	}
	sort.Strings(roles)
	return orNone(strings.Join(slices.Compact(roles), ","))
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}
