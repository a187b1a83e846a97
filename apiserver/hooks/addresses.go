// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
)

// DefaultServiceCIDR is the name of the range that the server is configured with.
const DefaultServiceCIDR = "kubernetes"

// manager owns what the server writes of addresses.
const manager = "kube-apiserver"

// ranges are where addresses come from: the configured one first, then those of ServiceCIDRs that are ready.
func (s *services) ranges(ctx context.Context) ([]netip.Prefix, error) {
	out := slices.Clone(s.cidrs)
	err := s.store.List(ctx, networking.ServiceCIDRs.Kind, "", func(o resource.Object) bool {
		c := networking.ServiceCIDRs.Cast(o)
		if c.DeletionTimestamp != nil || !apimeta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			return true
		}
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err == nil && s.cidr(familyOf(p.Addr())).IsValid() && !slices.Contains(out, p.Masked()) {
				out = append(out, p.Masked())
			}
		}
		return true
	})
	if apierrors.IsNotFound(err) { // a server without the kind
		err = nil
	}
	return out, err
}

// addressesTaken adds the addresses that anybody holds to t.
func (s *services) addressesTaken(ctx context.Context, t taken) error {
	err := s.store.List(ctx, networking.IPAddresses.Kind, "", func(o resource.Object) bool {
		if addr, err := netip.ParseAddr(o.GetName()); err == nil {
			t[addr] = true
		}
		return true
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// hold makes the object that says that a Service has an address. It returns AlreadyExists if somebody else was faster.
func (s *services) hold(ctx context.Context, addr netip.Addr, namespace, name string) error {
	_, err := s.store.Do(ctx, &call.Request{
		Verb: "create", Kind: networking.IPAddresses.Kind, Object: networking.ServiceAddress(addr, namespace, name), FieldManager: manager,
	})
	if apierrors.IsNotFound(err) { // a server without the kind
		return nil
	}
	return err
}

// release removes what hold made. An address that stays behind because of an error goes at the next start.
func (s *services) release(ctx context.Context, addr netip.Addr, namespace, name string) {
	o, err := s.store.Get(ctx, networking.IPAddresses.Kind, "", addr.String())
	if err != nil || !heldBy(networking.IPAddresses.Cast(o), namespace, name) {
		return
	}
	uid := o.GetUID()
	_, _ = s.store.Do(ctx, &call.Request{
		Verb: "delete", Kind: networking.IPAddresses.Kind, Name: addr.String(),
		Delete: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}},
	})
}

func heldBy(a *networkingv1.IPAddress, namespace, name string) bool {
	r := a.Spec.ParentRef
	return r != nil && r.Group == "" && r.Resource == "services" && r.Namespace == namespace && r.Name == name
}

func addressesOf(s *corev1.Service) (out []netip.Addr) {
	for _, ip := range s.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// deleted releases the addresses of a Service that is gone.
func (s *services) deleted(ctx context.Context, o resource.Object) {
	for _, addr := range addressesOf(core.Services.Cast(o)) {
		s.release(ctx, addr, o.GetNamespace(), o.GetName())
	}
	if ports := portsOf(core.Services.Cast(o)); s.shared != nil && len(ports) > 0 {
		s.shared.release(ctx, ports)
	}
}

// repairEvery is how often is looked whether addresses and ports are held for the Services that have them, and for no others.
const repairEvery = 3 * time.Minute

// holdGrace is how old an address is at least that is taken back: a younger one may be on its way to a Service.
const holdGrace = time.Minute

// Repairs keeps what Services have and what is held for them equal, after crashes, deletions by hand and starts of older servers.
type Repairs struct {
	services services
	leaks    map[int]int
}

// NewRepairs returns the repairs of what Service with the same keys, ports and figures allocates.
func NewRepairs(store Store, keys Keys, ports [2]int, figures *Figures) *Repairs {
	r := &Repairs{services: services{store: store, figures: figures}, leaks: map[int]int{}}
	if keys != nil {
		r.services.shared = &sharedPorts{keys: keys, ports: ports}
	}
	return r
}

// Once repairs what is wrong at a time.
func (r *Repairs) Once(ctx context.Context, now time.Time) error {
	if err := r.services.repairAddresses(ctx, now); err != nil || r.services.shared == nil {
		return err
	}
	err := r.services.shared.repair(ctx, r.services.store, r.leaks)
	r.services.figures.portsRepaired(err)
	return err
}

// Run repairs again and again until ctx ends; problems gets errors, after which it goes on.
func (r *Repairs) Run(ctx context.Context, problems func(error)) {
	tick := time.NewTicker(repairEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := r.Once(ctx, now); err != nil && ctx.Err() == nil {
				problems(err)
			}
		}
	}
}

// repairAddresses makes the objects of addresses that Services have, and removes those that the server made for Services that are
// gone.
func (s *services) repairAddresses(ctx context.Context, now time.Time) error {
	store := s.store
	want := map[netip.Addr]*corev1.Service{}
	err := store.List(ctx, core.Services.Kind, "", func(o resource.Object) bool {
		service := core.Services.Cast(o)
		for _, addr := range addressesOf(service) {
			want[addr] = service
		}
		return true
	})
	if err != nil {
		return err
	}
	var stale []*networkingv1.IPAddress
	err = store.List(ctx, networking.IPAddresses.Kind, "", func(o resource.Object) bool {
		a := networking.IPAddresses.Cast(o)
		addr, err := netip.ParseAddr(a.Name)
		if err != nil {
			return true
		}
		service := want[addr]
		if a.Labels[networking.LabelManagedBy] == networking.Allocator && (service == nil || !heldBy(a, service.Namespace, service.Name)) {
			if now.Sub(a.CreationTimestamp.Time) >= holdGrace {
				stale = append(stale, a)
			}
		} else {
			delete(want, addr)
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, a := range stale {
		if addr, err := netip.ParseAddr(a.Name); err == nil && a.Spec.ParentRef != nil {
			s.release(ctx, addr, a.Spec.ParentRef.Namespace, a.Spec.ParentRef.Name)
		}
	}
	for addr, service := range want {
		if err := s.hold(ctx, addr, service.Namespace, service.Name); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}
