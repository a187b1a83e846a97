// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/client"
)

// The Service through which pods reach the server, and the service account it acts as. Its name is what other programs look for.
const (
	ServiceNamespace = metav1.NamespaceSystem
	ServiceName      = "kube-dns"
	Account          = "kube-dns"
)

// manager is how the slice says who keeps it, so that nobody else touches it.
const manager = "dns.knarr.dev"

// Needs is the role of the server's service account: what Run reads and Publish writes.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "namespaces"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{discoveryv1.GroupName}, Resources: []string{"endpointslices"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"services"}, Verbs: []string{"create"}},
		{APIGroups: []string{discoveryv1.GroupName}, Resources: []string{"endpointslices"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"services"}, ResourceNames: []string{ServiceName}, Verbs: []string{"update"}},
		{APIGroups: []string{discoveryv1.GroupName}, Resources: []string{"endpointslices"}, ResourceNames: []string{ServiceName}, Verbs: []string{"update"}},
	}
}

// Publish makes the Service kube-system/kube-dns with an address of the cluster's Services that leads to a server at endpoint. It may be
// repeated and changes what differs. A conflict with another writer is returned.
func Publish(ctx context.Context, c *client.Client, clusterIP netip.Addr, endpoint netip.AddrPort) error {
	key := client.Key{Namespace: ServiceNamespace, Name: ServiceName}
	if err := publishService(ctx, client.Of(c, core.Services), key, clusterIP); err != nil {
		return fmt.Errorf("service %s: %w", key, err)
	}
	if err := publishSlice(ctx, client.Of(c, discovery.EndpointSlices), key, endpoint); err != nil {
		return fmt.Errorf("endpoint slice %s: %w", key, err)
	}
	return nil
}

func publishService(ctx context.Context, services client.Resource[corev1.Service], key client.Key, clusterIP netip.Addr) error {
	is, err := services.Get(ctx, key)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	will := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err == nil {
		will = is.DeepCopy()
	}
	will.Labels = with(will.Labels, map[string]string{
		"k8s-app": "kube-dns", "kubernetes.io/name": "KubeDNS", "kubernetes.io/cluster-service": "true",
	})
	will.Spec.Selector = nil
	will.Spec.Type = corev1.ServiceTypeClusterIP
	will.Spec.ClusterIP, will.Spec.ClusterIPs = clusterIP.String(), []string{clusterIP.String()}
	will.Spec.Ports = []corev1.ServicePort{
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
		{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
	}
	switch {
	case err != nil:
		_, err = services.Create(ctx, will)
	case !equality.Semantic.DeepEqual(is, will):
		_, err = services.Update(ctx, will)
	}
	return err
}

func publishSlice(ctx context.Context, slices client.Resource[discoveryv1.EndpointSlice], key client.Key, endpoint netip.AddrPort) error {
	is, err := slices.Get(ctx, key)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	will := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	if err == nil {
		will = is.DeepCopy()
	}
	will.Labels = with(will.Labels, map[string]string{
		discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: manager, "k8s-app": "kube-dns",
	})
	will.AddressType = discoveryv1.AddressTypeIPv4
	will.Endpoints = []discoveryv1.Endpoint{{
		Addresses:  []string{endpoint.Addr().String()},
		Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
	}}
	will.Ports = []discoveryv1.EndpointPort{
		{Name: new("dns"), Port: new(int32(endpoint.Port())), Protocol: new(corev1.ProtocolUDP)},
		{Name: new("dns-tcp"), Port: new(int32(endpoint.Port())), Protocol: new(corev1.ProtocolTCP)},
	}
	switch {
	case err != nil:
		_, err = slices.Create(ctx, will)
	case !equality.Semantic.DeepEqual(is, will):
		_, err = slices.Update(ctx, will)
	}
	return err
}

// with returns labels with some more.
func with(labels, more map[string]string) map[string]string {
	out := maps.Clone(more)
	for k, v := range labels {
		if _, ours := more[k]; !ours {
			out[k] = v
		}
	}
	return out
}
