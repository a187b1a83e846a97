// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/coordination"
	"knarr.dev/client"
)

var leaseKey = client.Key{Namespace: "kube-system", Name: "lock"}

// candidate records what an election tells it.
type candidate struct {
	mu      sync.Mutex
	leading bool
	term    int32
	holder  string
	stop    context.CancelFunc
	done    chan error
}

func (c *candidate) state() (bool, int32, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leading, c.term, c.holder
}

func compete(t *testing.T, name string, transport call.Transport) *candidate {
	c := &candidate{done: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	e := client.Election{
		Lease: leaseKey, Identity: name,
		Lead: func(ctx context.Context, term int32) error {
			c.mu.Lock()
			c.leading, c.term = true, term
			c.mu.Unlock()
			<-ctx.Done()
			c.mu.Lock()
			c.leading = false
			c.mu.Unlock()
			return ctx.Err()
		},
		Observed: func(holder string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.holder = holder
		},
	}
	go func() { c.done <- e.Run(ctx, client.New(transport)) }()
	return c
}

// cut is a transport that can be cut off.
type cut struct {
	call.Transport
	mu  sync.Mutex
	off bool
}

func (c *cut) set(off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = off
}

func (c *cut) Do(ctx context.Context, q *call.Request) (*call.Result, error) {
	c.mu.Lock()
	off := c.off
	c.mu.Unlock()
	if off {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return c.Transport.Do(ctx, q)
}

// leases is a server of one lease: the rules of revisions and nothing else.
type leases struct {
	call.Transport // nil: nothing else is asked for
	mu             sync.Mutex
	lease          *coordinationv1.Lease
	revision       int64
}

func (l *leases) Do(_ context.Context, q *call.Request) (*call.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gr := coordination.Leases.GroupResource()
	switch q.Verb {
	case "get":
		if l.lease == nil {
			return nil, apierrors.NewNotFound(gr, q.Name)
		}
		return &call.Result{Object: l.lease}, nil
	case "create":
		if l.lease != nil {
			return nil, apierrors.NewAlreadyExists(gr, q.Name)
		}
	case "update":
		if l.lease == nil || l.lease.ResourceVersion != q.Object.GetResourceVersion() {
			return nil, apierrors.NewConflict(gr, q.Name, errors.New("stale"))
		}
	}
	l.revision++
	q.Object.SetResourceVersion(strconv.FormatInt(l.revision, 10))
	l.lease = coordination.Leases.Cast(q.Object)
	return &call.Result{Object: l.lease}, nil
}

func TestLeadersTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &leases{}
		line := &cut{Transport: server}
		a := compete(t, "a", line)
		time.Sleep(time.Second)
		b := compete(t, "b", server)
		time.Sleep(time.Minute)
		if leading, term, _ := a.state(); !leading || term != 0 {
			t.Fatalf("a leads: %v, term %d", leading, term)
		}
		if leading, _, holder := b.state(); leading || holder != "a" {
			t.Fatalf("b leads: %v, sees holder %q", leading, holder)
		}

		line.set(true)
		var overlap, gap time.Duration
		for range 400 {
			time.Sleep(100 * time.Millisecond)
			la, _, _ := a.state()
			lb, _, _ := b.state()
			switch {
			case la && lb:
				overlap += 100 * time.Millisecond
			case !la && !lb:
				gap += 100 * time.Millisecond
			}
		}
		if overlap > 0 || gap < time.Second || gap > 20*time.Second {
			t.Errorf("two leaders for %v, none for %v", overlap, gap)
		}
		if leading, term, _ := b.state(); !leading || term != 1 {
			t.Errorf("b leads: %v, term %d", leading, term)
		}

		line.set(false)
		time.Sleep(time.Minute)
		if leading, _, holder := a.state(); leading || holder != "b" {
			t.Errorf("a leads: %v, sees holder %q", leading, holder)
		}
		b.stop()
		if err := <-b.done; !errors.Is(err, context.Canceled) {
			t.Errorf("b: %v", err)
		}
		time.Sleep(5 * time.Second) // less than the lease's duration: it was released
		if leading, term, _ := a.state(); !leading || term != 2 {
			t.Errorf("after a release a leads: %v, term %d", leading, term)
		}
		a.stop()
		<-a.done
	})
}

func TestElectionsAreChecked(t *testing.T) {
	lead := func(context.Context, int32) error { return nil }
	for _, e := range []client.Election{
		{Lease: leaseKey, Identity: "a"},
		{Lease: leaseKey, Lead: lead},
		{Lease: leaseKey, Identity: "a", Lead: lead, Duration: time.Second},
	} {
		if err := e.Run(t.Context(), client.New(&leases{})); err == nil {
			t.Errorf("%+v was accepted", e)
		}
	}
}

// TestElectionWithOthers shares a lease with client-go's leader election.
func TestElectionWithOthers(t *testing.T) {
	cfg := overHTTP(t, serve(t).Handler())
	leases := client.Of(client.New(dial(t, cfg)), coordination.Leases)
	terms := make(chan int32, 1)
	ours := client.Election{Lease: leaseKey, Identity: "ours", Lead: func(_ context.Context, term int32) error {
		terms <- term
		return nil
	}}
	if err := ours.Run(t.Context(), client.New(dial(t, cfg))); err != nil || <-terms != 0 {
		t.Fatalf("the first lead: %v", err)
	}
	set, err := kubernetes.NewForConfig(&rest.Config{Host: cfg.Server, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: leaseKey.Namespace, Name: leaseKey.Name},
			Client:    set.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: "theirs"},
		},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { cancel() }, OnStoppedLeading: func() {},
		},
	})
	if err := ours.Run(t.Context(), client.New(dial(t, cfg))); err != nil || <-terms != 2 {
		t.Fatalf("the lead after another's: %v", err)
	}
	lease, err := leases.Get(t.Context(), leaseKey)
	if err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" || *lease.Spec.LeaseTransitions != 2 {
		t.Errorf("the lease at the end: %+v, %v", lease, err)
	}
}
