// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package servicecidr says which ranges of service addresses may be used, and keeps those that are deleted until no address
// depends on them.
package servicecidr

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// finalizer keeps a range while addresses depend on it.
const finalizer = "networking.k8s.io/service-cidr-finalizer"

// What the condition Ready says.
const (
	readyMessage       = "Kubernetes Service CIDR is ready"
	terminatingMessage = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

// grace is how long an unused range waits: services that were being created meanwhile may have taken an address of it.
const grace = 10 * time.Second

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs"}, Verbs: []string{"get", "list", "patch", "update", "watch"}},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"servicecidrs/finalizers", "servicecidrs/status"}, Verbs: []string{"patch", "update"}},
		{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ipaddresses"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := reconciler{ranges: client.Of(c, networking.ServiceCIDRs), addresses: client.Of(c, networking.IPAddresses)}
	r.ranges.Manager = "service-cidr-controller"
	return controller.Controller{
		Name: "service-cidr-controller", For: networking.ServiceCIDRs.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{
			{Kind: networking.IPAddresses.Kind, Keys: r.deleted},
			{Kind: networking.ServiceCIDRs.Kind, Keys: r.deleted},
		},
	}
}

type reconciler struct {
	ranges    client.Resource[networkingv1.ServiceCIDR]
	addresses client.Resource[networkingv1.IPAddress]
}

// deleted returns the ranges that wait to go: any change may be what they wait for.
func (r reconciler) deleted(resource.Object, resource.Object) []client.Key {
	ranges, err := r.ranges.View(context.Background(), client.ListOptions{})
	if err != nil {
		return nil // the loop has no view either, and starts again
	}
	var keys []client.Key
	for c := range ranges.All("") {
		if c.DeletionTimestamp != nil {
			keys = append(keys, client.KeyOf(c))
		}
	}
	return keys
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	ranges, err := r.ranges.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	addresses, err := r.addresses.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	c := ranges.Get(key)
	if c == nil {
		return 0, nil
	}
	p := decide(c, ranges.All(""), addresses.All(""), time.Now())
	next := c.DeepCopy()
	if p.finalizer != slices.Contains(c.Finalizers, finalizer) {
		if p.finalizer {
			next.Finalizers = append(next.Finalizers, finalizer)
		} else {
			next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == finalizer })
		}
		written, err := r.ranges.Update(ctx, next)
		if err != nil || !p.finalizer {
			return 0, gone(err)
		}
		next = written.DeepCopy()
	}
	if p.ready != nil && apimeta.SetStatusCondition(&next.Status.Conditions, *p.ready) {
		if _, err := r.ranges.UpdateStatus(ctx, next); err != nil {
			return 0, gone(err)
		}
	}
	return p.again, nil
}

func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// plan is what a range needs.
type plan struct {
	finalizer bool
	ready     *metav1.Condition // nil leaves it
	again     time.Duration
}

func decide(c *networkingv1.ServiceCIDR, ranges iter.Seq[*networkingv1.ServiceCIDR], addresses iter.Seq[*networkingv1.IPAddress], now time.Time) plan {
	if c.DeletionTimestamp == nil {
		return plan{finalizer: true, ready: &metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: readyMessage,
		}}
	}
	if !slices.Contains(c.Finalizers, finalizer) {
		return plan{}
	}
	terminating := &metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse,
		Reason: networkingv1.ServiceCIDRReasonTerminating, Message: terminatingMessage,
	}
	if needed(c, ranges, addresses) {
		return plan{finalizer: true, ready: terminating}
	}
	if wait := c.DeletionTimestamp.Add(grace).Sub(now); wait > 0 {
		return plan{finalizer: true, ready: terminating, again: wait}
	}
	return plan{}
}

// needed tells whether addresses would be outside of every range without c.
func needed(c *networkingv1.ServiceCIDR, ranges iter.Seq[*networkingv1.ServiceCIDR], addresses iter.Seq[*networkingv1.IPAddress]) bool {
	own := prefixes(c)
	var others []netip.Prefix
	for o := range ranges {
		if o.Name != c.Name && o.DeletionTimestamp == nil {
			others = append(others, prefixes(o)...)
		}
	}
	holds := func(all []netip.Prefix, addr netip.Addr) bool {
		return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	for a := range addresses {
		if addr, err := netip.ParseAddr(a.Name); err == nil && holds(own, addr) && !holds(others, addr) {
			return true
		}
	}
	return false
}

func prefixes(c *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
