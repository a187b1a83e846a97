// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Services give sets of pods one name and address.
var Services = resource.WithList(resource.Define(resource.Definition[corev1.Service]{
	Group: "", Version: "v1", Kind: "Service", Resource: "services",
	ShortNames:     []string{"svc"},
	Categories:     []string{"all"},
	Scope:          resource.Namespaced,
	StoragePath:    "services/specs",
	Name:           apivalidation.NameIsDNSLabel,
	CreateOnUpdate: true,
	Default:        defaultService,
	PrepareCreate:  func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} },
	PrepareUpdate:  func(s, old *corev1.Service) { s.Status = *old.Status.DeepCopy() },
	Validate:       validateService,
	ValidateUpdate: validateServiceUpdate,
	Warnings:       serviceWarnings,
	Columns: []resource.Column[corev1.Service]{
		{Name: "Type", Value: func(s *corev1.Service, _ time.Time) any { return string(s.Spec.Type) }},
		{Name: "Cluster-IP", Value: func(s *corev1.Service, _ time.Time) any { return orNone(s.Spec.ClusterIP) }},
		{Name: "External-IP", Value: func(s *corev1.Service, _ time.Time) any { return externalIP(s) }},
		{Name: "Port(s)", Value: func(s *corev1.Service, _ time.Time) any { return servicePorts(s.Spec.Ports) }},
		{Name: "Age", Value: func(s *corev1.Service, now time.Time) any { return age(s.CreationTimestamp, now) }},
		{Name: "Selector", Wide: true, Value: func(s *corev1.Service, _ time.Time) any { return selectorText(s.Spec.Selector) }},
	},
	Fields: func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	},
	FieldNames: []string{"spec.clusterIP", "spec.type"},
	Subresources: resource.Subresources[corev1.Service]{
		Status: &resource.Status[corev1.Service]{Prepare: func(obj, old *corev1.Service) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: func(obj, _ *corev1.Service) field.ErrorList {
			return validateIngress(obj, field.NewPath("status", "loadBalancer", "ingress"))
		}},
		Others: []resource.Subresource{
			{Name: "proxy", Kind: coreKind("ServiceProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
		},
	},
}), func() runtime.Object { return new(corev1.ServiceList) })

func defaultService(s *corev1.Service) {
	orDefault(&s.Spec.SessionAffinity, corev1.ServiceAffinityNone)
	orDefault(&s.Spec.Type, corev1.ServiceTypeClusterIP)
	if s.Spec.SessionAffinity == corev1.ServiceAffinityNone {
		s.Spec.SessionAffinityConfig = nil
	} else if s.Spec.SessionAffinityConfig == nil || s.Spec.SessionAffinityConfig.ClientIP == nil ||
		s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil {
		timeout := corev1.DefaultClientIPServiceAffinitySeconds
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		orDefault(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	outside := s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if outside || len(s.Spec.ExternalIPs) > 0 && s.Spec.Type == corev1.ServiceTypeClusterIP {
		orDefault(&s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if s.Spec.Type != corev1.ServiceTypeExternalName {
		setDefault(&s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefault(&s.Spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				setDefault(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IP != "" {
				all = append(all, i.IP)
			} else if i.Hostname != "" {
				all = append(all, i.Hostname)
			}
		}
		all = append(all, s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	}
	return orNone(strings.Join(s.Spec.ExternalIPs, ","))
}

func servicePorts(ports []corev1.ServicePort) string {
	var all []string
	for _, p := range ports {
		if p.NodePort != 0 {
			all = append(all, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			all = append(all, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return orNone(strings.Join(all, ","))
}

func selectorText(selector map[string]string) string {
	var all []string
	for k, v := range selector {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return orNone(strings.Join(all, ","))
}
