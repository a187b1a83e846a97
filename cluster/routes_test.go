// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodRoutes(t *testing.T) {
	node := func(name, pods, ip string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: pods},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip},
			}},
		}
	}
	got := podRoutes(slices.Values([]*corev1.Node{
		node("self", "10.42.0.0/24", "192.0.2.1"), node("other", "10.42.255.0/24", "192.0.2.2"), node("new", "", "192.0.2.3"),
		node("near", "10.42.1.0/24", "10.44.0.12"), node("silent", "10.42.254.0/24", ""), node("six", "10.42.253.0/24", "2001:db8::1"),
	}), "self", netip.MustParsePrefix("10.44.0.0/16"))
	want := map[netip.Prefix]netip.Addr{netip.MustParsePrefix("10.42.255.0/24"): netip.MustParseAddr("192.0.2.2")}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
