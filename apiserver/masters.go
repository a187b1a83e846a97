// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/store"
)

// Servers on one store tell each other that they live by a key with a TTL below masterLeases, as kube-apiserver does with the same key
// and value: Endpoints that hold the address.
const (
	masterLeases  = "/registry/masterleases/"
	masterTTL     = 15 * time.Second
	masterRefresh = 10 * time.Second
)

// keepEndpoints keeps the endpoints of the service default/kubernetes equal to the servers that live, until ctx ends.
func (s *Server) keepEndpoints(ctx context.Context) {
	tick := time.NewTicker(masterRefresh)
	defer tick.Stop()
	for {
		if err := s.liveEndpoints(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("endpoints of the API servers are not up to date", "err", err, "again", masterRefresh)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.leaveEndpoints()
			return
		}
	}
}

// leaveEndpoints deletes this server's key, so that the others take it out of the endpoints at their next renewal.
func (s *Server) leaveEndpoints() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := s.cfg.Store.Write(ctx, store.Op{Key: s.masterKey(), Expect: store.Any})
	if err != nil {
		s.cfg.Log.Warn("this server is still among the endpoints of the API servers", "err", err, "for", masterTTL)
	}
}

func (s *Server) masterKey() string { return masterLeases + s.cfg.AdvertiseIP.String() }

// liveEndpoints renews this server's key and writes the addresses of all that live.
func (s *Server) liveEndpoints(ctx context.Context) error {
	if err := s.renewMaster(ctx, s.masterKey()); err != nil {
		return err
	}
	page, err := s.cfg.Store.Read(ctx, store.Query{Key: masterLeases, Prefix: true})
	if err != nil {
		return err
	}
	var live []string
	for _, r := range page.Records {
		address, err := netip.ParseAddr(strings.TrimPrefix(r.Key, masterLeases))
		if err == nil && address.Is4() == s.cfg.AdvertiseIP.Is4() {
			live = append(live, address.String())
		}
	}
	if len(live) == 0 { // its own ended already: something is slow
		return nil
	}
	slices.Sort(live)
	return s.writeEndpoints(ctx, live)
}

func (s *Server) renewMaster(ctx context.Context, key string) error {
	page, err := s.cfg.Store.Read(ctx, store.Query{Key: key})
	if err != nil {
		return err
	}
	lease := &corev1.Endpoints{} //nolint:staticcheck // Kubernetes writes it too
	if len(page.Records) > 0 {
		if old, err := codec.DecodeStored(core.Endpoints.Kind, page.Records[0].Value); err == nil {
			lease = core.Endpoints.Cast(old)
		}
	}
	lease.Generation++ // so that each renewal is a change
	//nolint:staticcheck // Kubernetes writes it too
	lease.Subsets = []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: s.cfg.AdvertiseIP.String()}}}}
	value, err := codec.EncodeStored(core.Endpoints.Kind, lease)
	if err != nil {
		return err
	}
	_, err = s.cfg.Store.Write(ctx, store.Op{Key: key, Value: value, Expect: store.Any, TTL: masterTTL})
	return err
}

// writeEndpoints makes the Endpoints and the EndpointSlice of default/kubernetes name addresses, if they are there.
func (s *Server) writeEndpoints(ctx context.Context, live []string) error {
	addresses, slice := make([]corev1.EndpointAddress, 0, len(live)), make([]discoveryv1.Endpoint, 0, len(live))
	ready := true
	for _, ip := range live {
		addresses = append(addresses, corev1.EndpointAddress{IP: ip})
		slice = append(slice, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	for _, u := range []struct {
		kind   *resource.Kind
		change func(resource.Object) error
	}{
		{core.Endpoints.Kind, func(o resource.Object) error {
			e := core.Endpoints.Cast(o)
			if len(e.Subsets) == 1 && !equality.Semantic.DeepEqual(e.Subsets[0].Addresses, addresses) {
				e.Subsets[0].Addresses, e.Subsets[0].NotReadyAddresses = addresses, nil
			}
			return nil
		}},
		{discovery.EndpointSlices.Kind, func(o resource.Object) error {
			e := discovery.EndpointSlices.Cast(o)
			if !equality.Semantic.DeepEqual(e.Endpoints, slice) {
				e.Endpoints = slice
			}
			return nil
		}},
	} {
		_, err := s.objects().Update(ctx, u.kind, "default", "kubernetes", false, u.change)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s default/kubernetes: %w", u.kind.Kind, err)
		}
	}
	return nil
}
