// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"net"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/api/call"
	"knarr.dev/api/coordination"
	"knarr.dev/api/resource"
)

// Each API server has a Lease in kube-system that says who it is, as in Kubernetes:
// https://kubernetes.io/docs/concepts/architecture/leases/#api-server-identity. A server that is alone renews it seldom: nobody asks it
// whether it lives by reading an hour's lease, and a server at rest should rest.
const (
	identityNamespace = "kube-system"
	identityLabel     = "apiserver.kubernetes.io/identity"
	identityValue     = "kube-apiserver"
	identityPeer      = "kubernetes.io/peer-advertise-address"
	identityDuration  = time.Hour
	identityRenewal   = 10 * time.Second
	identityAlone     = 10 * time.Minute
	identitySweep     = time.Hour // how often expired leases are looked for
)

// keepIdentity holds the server's Lease until ctx ends, and deletes those of servers that are gone.
func (s *Server) keepIdentity(ctx context.Context) {
	lease, every := s.identity(s.cfg.Hostname), identityAlone
	if s.cfg.Shared {
		every = identityRenewal
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var swept time.Time
	for {
		now := time.Now()
		err := s.renewIdentity(ctx, lease, now)
		if err == nil && now.Sub(swept) >= identitySweep {
			swept = now
			err = s.sweepIdentities(ctx, now)
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("leases of API servers are not up to date", "err", err, "again", every)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// identity is the server's Lease without a time. Its name stays the same over restarts, its holder does not.
func (s *Server) identity(hostname string) *coordinationv1.Lease {
	address := ""
	if s.advertised() {
		address = net.JoinHostPort(s.cfg.AdvertiseIP.String(), strconv.Itoa(s.cfg.AdvertisePort))
	}
	sum := sha256.Sum256([]byte(hostname + address))
	name := "apiserver-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
	holder, seconds := name+"_"+string(uuid.NewUUID()), int32(identityDuration/time.Second)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: identityNamespace, Name: name,
			Labels: map[string]string{identityLabel: identityValue, "kubernetes.io/hostname": hostname},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds},
	}
	if address != "" {
		lease.Annotations = map[string]string{identityPeer: address}
	}
	return lease
}

func (s *Server) renewIdentity(ctx context.Context, lease *coordinationv1.Lease, now time.Time) error {
	renewed := metav1.NewMicroTime(now)
	_, err := s.objects().Update(ctx, coordination.Leases.Kind, identityNamespace, lease.Name, false, func(o resource.Object) error {
		old := coordination.Leases.Cast(o)
		lease.Spec.DeepCopyInto(&old.Spec)
		old.Spec.RenewTime = &renewed
		for name, value := range lease.Labels {
			metav1.SetMetaDataLabel(&old.ObjectMeta, name, value)
		}
		for name, value := range lease.Annotations {
			metav1.SetMetaDataAnnotation(&old.ObjectMeta, name, value)
		}
		return nil
	})
	if !apierrors.IsNotFound(err) {
		return err
	}
	made := lease.DeepCopy()
	made.Spec.RenewTime = &renewed
	_, err = s.objects().Do(ctx, &call.Request{Verb: "create", Kind: coordination.Leases.Kind, Namespace: identityNamespace, Object: made})
	return err
}

// sweepIdentities deletes the Leases of servers that have expired at a time.
func (s *Server) sweepIdentities(ctx context.Context, now time.Time) error {
	var expired []*coordinationv1.Lease
	err := s.objects().List(ctx, coordination.Leases.Kind, identityNamespace, func(o resource.Object) bool {
		if l := coordination.Leases.Cast(o); l.Labels[identityLabel] == identityValue && leaseExpired(l, now) {
			expired = append(expired, l)
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, l := range expired {
		_, err := s.objects().Do(ctx, &call.Request{
			Verb: "delete", Kind: coordination.Leases.Kind, Namespace: identityNamespace, Name: l.Name,
			Delete: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion}},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // it may have come back
			return err
		}
	}
	return nil
}

// leaseExpired is true too for a lease that nobody ever renewed, or that does not say how long it lasts.
func leaseExpired(l *coordinationv1.Lease, now time.Time) bool {
	if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil {
		return true
	}
	return l.Spec.RenewTime.Add(time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second).Before(now)
}
