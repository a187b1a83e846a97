// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
	"knarr.dev/api/scheduling"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/hooks"
	"knarr.dev/store"
)

// bootstrap makes the objects that exist from the start: namespaces first, then all others at once, so that the store
// makes few batches of their writes.
func (s *Server) bootstrap(ctx context.Context) error {
	namespaces, others := s.firstObjects()
	if err := s.bootstrapAll(ctx, namespaces); err != nil {
		return err
	}
	var policy, flows error
	var wg sync.WaitGroup
	wg.Go(func() { flows = s.maintainFlows(ctx) })
	wg.Go(func() {
		if s.cfg.Policy != nil {
			policy = authz.Ensure(ctx, s.objects(), s.cfg.Policy)
		}
	})
	err := s.bootstrapAll(ctx, others)
	wg.Wait()
	if err == nil && s.registry(networking.IPAddresses.Kind) != nil && s.registry(core.Services.Kind) != nil {
		s.repairs = hooks.NewRepairs(s.objects(), s.sharedKeys(), s.cfg.NodePorts, s.metrics.services)
		err = s.repairs.Once(ctx, time.Now())
	}
	return errors.Join(err, policy, flows, s.bootstrapAll(ctx, s.cfg.Bootstrap))
}

func (s *Server) bootstrapAll(ctx context.Context, all []Bootstrap) error {
	problems := make([]error, len(all))
	var wg sync.WaitGroup
	for i, b := range all {
		wg.Go(func() { problems[i] = s.bootstrapOne(ctx, b) })
	}
	wg.Wait()
	return errors.Join(problems...)
}

func (s *Server) bootstrapOne(ctx context.Context, b Bootstrap) error {
	objects := s.objects()
	namespace, name := b.Object.GetNamespace(), b.Object.GetName()
	_, err := objects.Get(ctx, b.Kind, namespace, name)
	if apierrors.IsNotFound(err) {
		_, err = objects.Do(ctx, &call.Request{
			Verb: "create", Kind: b.Kind, Namespace: namespace, Object: b.Object.DeepCopyObject().(resource.Object),
			FieldManager: ownManager,
		})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) || b.Reconcile == nil {
		return err
	}
	_, err = objects.Update(ctx, b.Kind, namespace, name, false, func(o resource.Object) error {
		b.Reconcile(o)
		return nil
	})
	return err
}

// firstObjects are the namespaces, the priority classes of the system, and the service default/kubernetes with its
// endpoints.
func (s *Server) firstObjects() (namespaces, others []Bootstrap) {
	add := func(kind *resource.Kind, obj resource.Object, reconcile func(resource.Object) bool) {
		b := Bootstrap{Kind: kind, Object: obj, Reconcile: reconcile}
		switch {
		case s.registry(kind) == nil:
		case kind == core.Namespaces.Kind:
			namespaces = append(namespaces, b)
		default:
			others = append(others, b)
		}
	}
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "default"} {
		add(core.Namespaces.Kind, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil)
	}
	preempt := corev1.PreemptLowerPriority
	for name, class := range map[string]schedulingv1.PriorityClass{
		"system-cluster-critical": {Value: 2000000000, Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
		"system-node-critical":    {Value: 2000001000, Description: "Used for system critical pods that must not be moved from their current node."},
	} {
		class.Name, class.PreemptionPolicy = name, &preempt
		add(scheduling.PriorityClasses.Kind, &class, nil)
	}
	s.firstRange(add)
	s.localServices(add)
	first, single := s.cfg.ServiceCIDR.Masked().Addr().Next().String(), corev1.IPFamilyPolicySingleStack
	port := int32(s.cfg.AdvertisePort)
	if port == 0 {
		port = 6443
	}
	add(core.Services.Kind, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default", Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: first, IPFamilyPolicy: &single, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}},
		},
	}, nil)
	if s.advertised() {
		s.firstEndpoints(add, port)
	}
	return namespaces, others
}

// serviceRanges are the configured ranges of Service addresses.
func (s *Server) serviceRanges() []netip.Prefix {
	out := []netip.Prefix{s.cfg.ServiceCIDR.Masked()}
	if s.cfg.SecondaryServiceCIDR.IsValid() {
		out = append(out, s.cfg.SecondaryServiceCIDR.Masked())
	}
	return out
}

// firstRange is the range of addresses that the server is configured with. Nobody but the server says that it is ready.
func (s *Server) firstRange(add func(*resource.Kind, resource.Object, func(resource.Object) bool)) {
	var cidrs []string
	for _, p := range s.serviceRanges() {
		cidrs = append(cidrs, p.String())
	}
	add(networking.ServiceCIDRs.Kind, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: hooks.DefaultServiceCIDR},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: cidrs},
	}, func(o resource.Object) bool {
		c := networking.ServiceCIDRs.Cast(o)
		if len(c.Spec.CIDRs) == 1 && len(cidrs) == 2 && c.Spec.CIDRs[0] == cidrs[0] { // the server has got a second family
			c.Spec.CIDRs = cidrs
			return true
		}
		if apimeta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
			return false
		}
		ownStatus(o, "kubernetes-service-cidr-controller", networkingv1.SchemeGroupVersion.String(), networkingv1.ServiceCIDRConditionReady, false)
		return apimeta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
		})
	})
}

// ownStatus notes a condition in the managed fields of an object as an apply to its status would.
func ownStatus(o resource.Object, manager, version, condition string, reason bool) {
	fields := fmt.Sprintf(`{"f:status":{"f:conditions":{"k:{\"type\":\"%s\"}":{".":{},"f:lastTransitionTime":{},"f:message":{},%s"f:status":{},"f:type":{}}}}}`,
		condition, map[bool]string{true: `"f:reason":{},`}[reason])
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	entry := metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: version, Subresource: "status", Time: &now,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}
	kept := slices.DeleteFunc(slices.Clone(o.GetManagedFields()), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == manager && e.Subresource == "status"
	})
	o.SetManagedFields(append([]metav1.ManagedFieldsEntry{entry}, kept...))
}

// advertised tells whether the service default/kubernetes leads to this server; endpoints may not be on loopback.
func (s *Server) advertised() bool {
	return s.cfg.AdvertiseIP.IsValid() && !s.cfg.AdvertiseIP.IsLoopback()
}

// firstEndpoints are where the service default/kubernetes leads; the address may change from one start to the next.
func (s *Server) firstEndpoints(add func(*resource.Kind, resource.Object, func(resource.Object) bool), port int32) {
	ip, name, protocol, ready := s.cfg.AdvertiseIP.String(), "https", corev1.ProtocolTCP, true
	subsets := []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: ip}},
		Ports:     []corev1.EndpointPort{{Name: name, Port: port, Protocol: protocol}},
	}}
	add(core.Endpoints.Kind, &corev1.Endpoints{ //nolint:staticcheck // Kubernetes writes it too
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default", Labels: map[string]string{"endpointslice.kubernetes.io/skip-mirror": "true"},
		},
		Subsets: subsets,
	}, func(o resource.Object) bool {
		if !s.cfg.Shared { // else keepEndpoints knows better
			core.Endpoints.Cast(o).Subsets = subsets
		}
		return true
	})
	endpoints := []discoveryv1.Endpoint{{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}
	ports := []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	family := discoveryv1.AddressTypeIPv4
	if s.cfg.AdvertiseIP.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	add(discovery.EndpointSlices.Kind, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: family, Endpoints: endpoints, Ports: ports,
	}, func(o resource.Object) bool {
		if slice := discovery.EndpointSlices.Cast(o); !s.cfg.Shared {
			slice.Endpoints, slice.Ports = endpoints, ports
		}
		return true
	})
}

// sharedKeys are the keys that servers on one store share; nil for one that is alone.
func (s *Server) sharedKeys() hooks.Keys {
	if !s.cfg.Shared {
		return nil
	}
	return s.cfg.Store
}

// builtinHooks are the hooks that need nothing but the server's objects.
func (s *Server) builtinHooks() []hooks.Hook {
	objects := s.objects()
	all := []hooks.Hook{
		hooks.Service(objects, s.sharedKeys(), s.serviceRanges(), s.cfg.NodePorts, s.metrics.services),
		hooks.Binding(objects), hooks.Eviction(objects), hooks.EphemeralContainers(), hooks.Resize(), hooks.Finalize(),
		hooks.Approval(), s.componentStatus(),
	}
	all = append(all, hooks.Devices(objects)...)
	served := all[:0]
	for _, h := range all {
		if s.registry(h.Kind) != nil {
			served = append(served, h)
		}
	}
	return served
}

// componentStatus answers for the store and for what the configuration names.
func (s *Server) componentStatus() hooks.Hook {
	etcd := hooks.Component{Name: "etcd-0", Check: func(ctx context.Context) error {
		_, err := s.cfg.Store.Read(ctx, store.Query{Key: "/registry/health"})
		return err
	}}
	return hooks.ComponentStatus(append(slices.Clone(s.cfg.Components), etcd)...)
}
