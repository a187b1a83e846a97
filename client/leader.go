// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"knarr.dev/api/coordination"
)

// Election makes one of several candidates the leader, by a Lease that the leader holds and renews. It works together
// with the leader election of client-go: both keep the same record in the same way.
//
// There is at most one leader at a time as long as clocks run equally fast: others count a lease's duration from when
// they saw it renewed, and the leader stops itself RenewDeadline after it began its last successful renewal, which is
// earlier. Their clocks need not agree on what time it is.
type Election struct {
	// Lease names the lock; Identity this candidate, uniquely.
	Lease    Key
	Identity string
	// Duration is how long others leave a lease alone that is not renewed: 15 s if 0. RenewDeadline is how long the
	// leader goes on without a renewal: 10 s if 0, and less than Duration. Retry is the time between attempts: 2 s if 0.
	Duration, RenewDeadline, Retry time.Duration
	// Lead is called when this candidate became the leader and must return soon after its ctx ends, which it does when the lead
	// is lost. term rises whenever the leader changes, unless someone deletes the lease: give it to what must refuse an
	// earlier leader's late writes. When Lead returns before the lead is lost, the lease is released and Run returns its error.
	Lead func(ctx context.Context, term int32) error
	// Observed, if set, is told the holder of the lease whenever that changes; empty if there is none.
	Observed func(holder string)
	// Clock is the time; the real one if it is nil.
	Clock clock.Clock
	Log   *slog.Logger
}

func (e Election) complete() (Election, error) {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&e.Duration, 15*time.Second)
	set(&e.RenewDeadline, 10*time.Second)
	set(&e.Retry, 2*time.Second)
	if e.Clock == nil {
		e.Clock = clock.RealClock{}
	}
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case e.Identity == "" || e.Lease.Name == "" || e.Lead == nil:
		return e, errors.New("an election needs a lease, an identity and something to lead")
	case e.Retry >= e.RenewDeadline || e.RenewDeadline >= e.Duration || e.Duration < time.Second:
		return e, fmt.Errorf("an election needs retry %v < renew deadline %v < duration %v, and that at least 1s", e.Retry, e.RenewDeadline, e.Duration)
	}
	return e, nil
}

// Run competes for the lead until ctx ends, leads whenever it has it, and releases it at the end.
func (e Election) Run(ctx context.Context, c *Client) error {
	e, err := e.complete()
	if err != nil {
		return err
	}
	l := &lock{Election: e, leases: Of(c, coordination.Leases)}
	for {
		for {
			leading, err := l.attempt(ctx)
			if err != nil && ctx.Err() == nil {
				e.Log.Debug("compete for lead", "lease", e.Lease, "err", err)
			}
			if leading {
				break
			}
			if err := l.pause(ctx, e.Retry+rand.N(e.Retry)); err != nil {
				return err
			}
		}
		e.Log.Info("became leader", "lease", e.Lease, "term", l.term())
		lost, err := l.lead(ctx)
		if !lost {
			return err
		}
		e.Log.Warn("lost the lead", "lease", e.Lease, "err", err)
	}
}

// lock is what a candidate knows of the lease.
type lock struct {
	Election
	leases Resource[coordinationv1.Lease]

	seen    *coordinationv1.Lease // the record as last read or written, nil if there is none
	seenAt  time.Time             // when it was first seen so
	renewed time.Time             // when the last successful renewal began
	holder  string                // as Observed was told
	told    bool
}

func (l *lock) pause(ctx context.Context, d time.Duration) error {
	t := l.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *lock) term() int32 {
	if l.seen == nil || l.seen.Spec.LeaseTransitions == nil {
		return 0
	}
	return *l.seen.Spec.LeaseTransitions
}

// attempt is step with a limit to how long it takes.
func (l *lock) attempt(ctx context.Context) (bool, error) {
	ctx, cancel := l.within(ctx, l.RenewDeadline)
	defer cancel()
	return l.step(ctx)
}

// within is context.WithTimeout on the election's clock.
func (l *lock) within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	t := l.Clock.NewTimer(d)
	go func() {
		defer t.Stop()
		select {
		case <-t.C():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// step takes the lease or renews it, if it may, and says whether this candidate holds it now. A step that did not reach
// the server says nothing about the lease.
func (l *lock) step(ctx context.Context) (leading bool, err error) {
	if !l.mine() { // a leader's own record is the newest, or its update is a conflict
		if err := l.read(ctx); err != nil {
			return false, err
		}
	}
	now := l.Clock.Now()
	if l.seen == nil {
		return l.write(ctx, now, nil)
	}
	if !l.mine() && l.taken(now) {
		return false, nil
	}
	leading, err = l.write(ctx, now, l.seen)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		return false, errors.Join(err, l.read(ctx))
	}
	return leading, err
}

func holderOf(l *coordinationv1.Lease) string {
	if l == nil || l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func (l *lock) mine() bool { return holderOf(l.seen) == l.Identity }

// taken says that somebody holds the lease and may still think so: the time counts from when the record was seen.
func (l *lock) taken(now time.Time) bool {
	if holderOf(l.seen) == "" {
		return false
	}
	duration := l.Duration
	if s := l.seen.Spec.LeaseDurationSeconds; s != nil {
		duration = time.Duration(*s) * time.Second
	}
	return now.Before(l.seenAt.Add(duration))
}

func (l *lock) read(ctx context.Context) error {
	lease, err := l.leases.Get(ctx, l.Lease)
	now := l.Clock.Now() // after the answer, which may show a renewal of this moment
	switch {
	case apierrors.IsNotFound(err):
		l.see(nil, now)
		return nil
	case err != nil:
		return err
	}
	if l.seen == nil || l.seen.ResourceVersion != lease.ResourceVersion || l.seen.UID != lease.UID {
		l.see(lease, now)
	}
	return nil
}

func (l *lock) see(lease *coordinationv1.Lease, at time.Time) {
	l.seen, l.seenAt = lease, at
	if holder := holderOf(lease); !l.told || holder != l.holder {
		l.told, l.holder = true, holder
		if l.Observed != nil {
			l.Observed(holder)
		}
	}
}

// write makes this candidate the holder: it creates the lease, or updates old.
func (l *lock) write(ctx context.Context, now time.Time, old *coordinationv1.Lease) (bool, error) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: l.Lease.Namespace, Name: l.Lease.Name}}
	var term int32
	acquired := metav1.NewMicroTime(now)
	if old != nil {
		lease = old.DeepCopy()
		if old.Spec.LeaseTransitions != nil {
			term = *old.Spec.LeaseTransitions
		}
		if holderOf(old) != l.Identity {
			term++
		} else if old.Spec.AcquireTime != nil {
			acquired = *old.Spec.AcquireTime
		}
	}
	seconds, renewed, identity := int32((l.Duration+time.Second-1)/time.Second), metav1.NewMicroTime(now), l.Identity
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &identity, &seconds
	lease.Spec.AcquireTime, lease.Spec.RenewTime, lease.Spec.LeaseTransitions = &acquired, &renewed, &term
	put := l.leases.Update
	if old == nil {
		put = l.leases.Create
	}
	lease, err := put(ctx, lease)
	if err != nil {
		return false, err
	}
	l.see(lease, now)
	l.renewed = now
	return true, nil
}

// lead runs Lead and renews the lease, until that fails for too long, Lead returns, or ctx ends.
func (l *lock) lead(ctx context.Context) (lost bool, err error) {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.Lead(inner, l.term()) }()
	term := l.term()
	deadline := l.Clock.NewTimer(l.left())
	defer deadline.Stop()
	for {
		retry := l.Clock.NewTimer(l.Retry)
		select {
		case err := <-done:
			retry.Stop()
			l.release(ctx)
			return false, err
		case <-deadline.C():
			retry.Stop()
			cancel()
			return true, errors.Join(<-done, fmt.Errorf("no renewal for %v", l.RenewDeadline))
		case <-retry.C():
		}
		renewing, stop := l.within(inner, l.left())
		leading, err := l.step(renewing)
		stop()
		if leading && l.term() == term {
			deadline.Stop()
			deadline = l.Clock.NewTimer(l.left())
			continue
		}
		if err != nil && ctx.Err() == nil {
			l.Log.Debug("renew lease", "lease", l.Lease, "err", err)
		}
		if leading || err == nil || l.seen == nil || !l.mine() { // somebody else has, or had it
			cancel()
			return true, errors.Join(<-done, fmt.Errorf("the lease was taken by %q", holderOf(l.seen)))
		}
	}
}

// left is how long the lead lasts without a renewal.
func (l *lock) left() time.Duration {
	return max(l.renewed.Add(l.RenewDeadline).Sub(l.Clock.Now()), 0)
}

// release gives the lease back, so that others need not wait until it expires.
func (l *lock) release(ctx context.Context) {
	if !l.mine() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Retry)
	defer cancel()
	lease, nobody, second, now := l.seen.DeepCopy(), "", int32(1), metav1.NewMicroTime(l.Clock.Now())
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &nobody, &second
	lease.Spec.RenewTime, lease.Spec.AcquireTime = &now, &now
	lease, err := l.leases.Update(ctx, lease)
	if err != nil {
		l.Log.Debug("release lease", "lease", l.Lease, "err", err)
		return
	}
	l.see(lease, now.Time)
}
