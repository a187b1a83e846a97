// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package endpointslice

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	sliceLimit     = 100  // endpoints of a slice
	endpointsLimit = 1000 // addresses of an Endpoints object
)

// Action is what is to be done to slices.
type Action struct {
	Create, Update, Delete []*discoveryv1.EndpointSlice
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// serves tells whether a pod has a place among the endpoints at all.
func serves(p *corev1.Pod) bool {
	return p.Status.PodIP != "" && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// portsOf resolves a Service's ports for a pod; a named port that the pod does not have is left out.
func portsOf(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, sp := range s.Spec.Ports {
		number, ok := targetPort(&sp, p)
		if !ok {
			continue
		}
		name, protocol := sp.Name, sp.Protocol
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number, AppProtocol: sp.AppProtocol})
	}
	return ports
}

func targetPort(sp *corev1.ServicePort, p *corev1.Pod) (int32, bool) {
	if sp.TargetPort.Type == intstr.Int {
		return sp.TargetPort.IntVal, true
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			for _, cp := range list[i].Ports {
				if cp.Name == sp.TargetPort.StrVal && cp.Protocol == sp.Protocol {
					return cp.ContainerPort, true
				}
			}
		}
	}
	return 0, false
}

func endpointOf(s *corev1.Service, p *corev1.Pod, zones map[string]string) discoveryv1.Endpoint {
	serving, terminating := ready(p), p.DeletionTimestamp != nil
	isReady := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  []string{p.Status.PodIP},
		Conditions: discoveryv1.EndpointConditions{Ready: &isReady, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	if p.Spec.NodeName != "" {
		node := p.Spec.NodeName
		e.NodeName = &node
		if zone := zones[node]; zone != "" {
			e.Zone = &zone
		}
	}
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name && p.Namespace == s.Namespace {
		name := p.Spec.Hostname
		e.Hostname = &name
	}
	return e
}

// key tells sets of ports apart: endpoints with other ports are in other slices.
func key(ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&b, "%s/%s/%d;", *p.Name, *p.Protocol, *p.Port)
	}
	return b.String()
}

// Plan decides which slices to make, change and delete. Slices that are right are left alone; changed ones are kept
// rather than replaced, and filled before new ones are made.
func Plan(s *corev1.Service, pods []*corev1.Pod, zones map[string]string, have []*discoveryv1.EndpointSlice) Action {
	type group struct {
		ports []discoveryv1.EndpointPort
		want  map[types.UID]discoveryv1.Endpoint
	}
	groups := map[string]*group{}
	for _, p := range pods {
		if !serves(p) {
			continue
		}
		ports := portsOf(s, p)
		if len(ports) == 0 && len(s.Spec.Ports) > 0 {
			continue
		}
		g := groups[key(ports)]
		if g == nil {
			g = &group{ports: ports, want: map[types.UID]discoveryv1.Endpoint{}}
			groups[key(ports)] = g
		}
		g.want[p.UID] = endpointOf(s, p, zones)
	}
	if len(groups) == 0 { // one empty slice says that the Service is known
		groups[""] = &group{ports: []discoveryv1.EndpointPort{}}
	}
	var a Action
	byPorts := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range have {
		byPorts[key(slice.Ports)] = append(byPorts[key(slice.Ports)], slice)
	}
	labels := labelsOf(s)
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		g := groups[k]
		planGroup(s, g.ports, g.want, byPorts[k], labels, &a)
		delete(byPorts, k)
	}
	for _, k := range slices.Sorted(maps.Keys(byPorts)) {
		a.Delete = append(a.Delete, byPorts[k]...)
	}
	return a
}

func planGroup(s *corev1.Service, ports []discoveryv1.EndpointPort, want map[types.UID]discoveryv1.Endpoint, have []*discoveryv1.EndpointSlice, labels map[string]string, a *Action) {
	left := maps.Clone(want)
	next := make([]*discoveryv1.EndpointSlice, len(have))
	for i, slice := range have { // what is there stays where it is
		next[i] = slice.DeepCopy()
		next[i].Endpoints, next[i].Labels, next[i].Ports = nil, labels, ports
		for _, e := range slice.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			if wanted, ok := left[e.TargetRef.UID]; ok {
				next[i].Endpoints = append(next[i].Endpoints, wanted)
				delete(left, e.TargetRef.UID)
			}
		}
	}
	fresh := slices.SortedFunc(maps.Values(left), func(x, y discoveryv1.Endpoint) int { return cmp.Compare(x.TargetRef.Name, y.TargetRef.Name) })
	for i := range next {
		n := min(sliceLimit-len(next[i].Endpoints), len(fresh))
		next[i].Endpoints, fresh = append(next[i].Endpoints, fresh[:n]...), fresh[n:]
	}
	kept := 0
	for i, slice := range next {
		if len(slice.Endpoints) == 0 && (len(want) > 0 || kept > 0) {
			a.Delete = append(a.Delete, have[i])
			continue
		}
		kept++
		if !equality.Semantic.DeepEqual(slice, have[i]) {
			a.Update = append(a.Update, slice)
		}
	}
	for len(fresh) > 0 || kept == 0 {
		n := min(sliceLimit, len(fresh))
		a.Create = append(a.Create, newSlice(s, ports, fresh[:n], labels))
		fresh = fresh[n:]
		kept++
	}
}

func newSlice(s *corev1.Service, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint, labels map[string]string) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: s.Name + "-", Namespace: s.Namespace, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: family, Ports: ports, Endpoints: endpoints,
	}
}

func labelsOf(s *corev1.Service) map[string]string {
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = s.Name, manager
	delete(labels, corev1.IsHeadlessService)
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return labels
}

// Endpoints are the subsets of the old form: addresses grouped by ports, ready ones apart from others.
func Endpoints(s *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	subsets := map[string]*corev1.EndpointSubset{}
	count := 0
	for _, p := range pods {
		if !serves(p) || p.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses || count >= endpointsLimit {
			continue
		}
		ports := portsOf(s, p)
		if len(ports) == 0 && len(s.Spec.Ports) > 0 {
			continue
		}
		k := key(ports)
		if subsets[k] == nil {
			subsets[k] = &corev1.EndpointSubset{}
			for _, port := range ports {
				subsets[k].Ports = append(subsets[k].Ports, corev1.EndpointPort{Name: *port.Name, Port: *port.Port, Protocol: *port.Protocol, AppProtocol: port.AppProtocol})
			}
		}
		address := corev1.EndpointAddress{IP: p.Status.PodIP, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if p.Spec.NodeName != "" {
			node := p.Spec.NodeName
			address.NodeName = &node
		}
		if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
			address.Hostname = p.Spec.Hostname
		}
		if ready(p) || s.Spec.PublishNotReadyAddresses {
			subsets[k].Addresses = append(subsets[k].Addresses, address)
		} else {
			subsets[k].NotReadyAddresses = append(subsets[k].NotReadyAddresses, address)
		}
		count++
	}
	var out []corev1.EndpointSubset
	for _, k := range slices.Sorted(maps.Keys(subsets)) {
		byIP := func(a, b corev1.EndpointAddress) int { return cmp.Compare(a.IP, b.IP) }
		slices.SortFunc(subsets[k].Addresses, byIP)
		slices.SortFunc(subsets[k].NotReadyAddresses, byIP)
		out = append(out, *subsets[k])
	}
	return out
}

func newEndpoints(s *corev1.Service, subsets []corev1.EndpointSubset) *corev1.Endpoints {
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelManagedBy] = "endpoint-controller"
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	return &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, Labels: labels}, Subsets: subsets}
}
