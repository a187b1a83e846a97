// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package servicecidr

import (
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cidr := func(name, prefix string, deleted time.Duration) *networkingv1.ServiceCIDR {
		c := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{prefix}}}
		c.Name = name
		if deleted > 0 {
			at := metav1.NewTime(now.Add(-deleted))
			c.DeletionTimestamp, c.Finalizers = &at, []string{finalizer}
		}
		return c
	}
	address := func(ip string) *networkingv1.IPAddress {
		return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: ip}}
	}
	live, going := cidr("a", "10.0.0.0/24", 0), cidr("a", "10.0.0.0/24", time.Minute)
	for _, c := range []struct {
		name      string
		is        *networkingv1.ServiceCIDR
		others    []*networkingv1.ServiceCIDR
		addresses []*networkingv1.IPAddress
		finalizer bool
		ready     metav1.ConditionStatus // empty: left
		again     time.Duration
	}{
		{"live", live, nil, []*networkingv1.IPAddress{address("10.0.0.7")}, true, metav1.ConditionTrue, 0},
		{"going, used", going, nil, []*networkingv1.IPAddress{address("10.0.0.7")}, true, metav1.ConditionFalse, 0},
		{"going, unused", going, nil, []*networkingv1.IPAddress{address("10.0.1.7")}, false, "", 0},
		{"going, covered", going, []*networkingv1.ServiceCIDR{cidr("b", "10.0.0.0/16", 0)}, []*networkingv1.IPAddress{address("10.0.0.7")}, false, "", 0},
		{"going, covered by what goes too", going, []*networkingv1.ServiceCIDR{cidr("b", "10.0.0.0/16", time.Minute)},
			[]*networkingv1.IPAddress{address("10.0.0.7")}, true, metav1.ConditionFalse, 0},
		{"just deleted", cidr("a", "10.0.0.0/24", 4*time.Second), nil, nil, true, metav1.ConditionFalse, 6 * time.Second},
	} {
		p := decide(c.is, slices.Values(append(c.others, c.is)), slices.Values(c.addresses), now)
		var ready metav1.ConditionStatus
		if p.ready != nil {
			ready = p.ready.Status
		}
		if p.finalizer != c.finalizer || ready != c.ready || p.again != c.again {
			t.Errorf("%s: got %+v", c.name, p)
		}
	}
}
