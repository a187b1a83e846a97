// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package flowcontrol decides which requests are carried out at once, which wait and which are refused: API priority and
// fairness.
//
// FlowSchemas sort requests into priority levels, of which each has its share of the server's seats. A list of many objects
// takes several seats, a write that many watchers are told of keeps some for a while (estimate.go). A level without free seats
// refuses, or queues: each flow gets a hand of few queues (deal.go), and queues are served fairly by virtual time (level.go).
// Every ten seconds levels lend seats that they do not need (borrow.go).
//
// The package knows neither HTTP nor how objects are kept: Configure gets the objects whenever they change, Match and Admit are
// what a request passes. Matching reads an immutable table; admission takes the lock of one level, and allocates nothing unless
// the request must wait. Memory is bounded by the requests that wait, of which a level's configuration allows so many, and by
// maxQueues queues for each level.
//
// See https://kubernetes.io/docs/concepts/cluster-administration/flow-control/ and KEP-1040. Where these are silent, Kubernetes
// v1.36 was observed.
package flowcontrol

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"knarr.dev/api/call"
)

// ErrRefused is what Admit returns for requests that shall be tried again later.
var ErrRefused = errors.New("too many requests, please try again later")

// Request is what the treatment of a request depends on. Its strings are kept while it waits and runs.
type Request struct {
	User *call.Identity
	// Resource is empty for requests of other paths.
	Verb, Group, Version, Resource, Subresource string
	Namespace, Name, Path                       string
	// Queue counts the request while it waits; may be nil.
	Queue Counter
}

// Counter counts up and down.
type Counter interface{ Add(n int64) }

// Controller is the flow control of one server. Its methods may be called from any goroutine.
type Controller struct {
	seats  int
	base   time.Time
	bounds bounds
	table  atomic.Pointer[table]
	spare  sync.Pool // of *Ticket
	kinds  [2]traffic

	mu     sync.Mutex
	levels map[string]*level // those that wind up too
	fair   float64
}

// New returns a controller that shares out seats (the requests that may be carried out at once), with the mandatory objects
// alone until Configure.
func New(seats int) *Controller {
	c := &Controller{seats: seats, base: time.Now(), bounds: newBounds(), levels: map[string]*level{}}
	c.spare.New = func() any { return &Ticket{ready: make(chan struct{}, 1)} }
	for i := range c.kinds {
		c.kinds[i].init(c.bounds)
	}
	c.Configure(nil, nil)
	return c
}

// now is the time on the controller's clock, which the levels get as an argument.
func (c *Controller) now() time.Duration { return time.Since(c.base) }

// Run moves seats between the levels until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	tick := time.NewTicker(adjustInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.adjust()
		}
	}
}

// Match finds the schema of a request: the first in order of precedence that has a rule for it.
func (c *Controller) Match(r *Request) *Schema { return c.table.Load().match(r) }

// Ticket is an admitted request. Done must be called once, and the ticket not be touched afterwards.
type Ticket struct {
	controller *Controller
	level      *level
	stats      *stats
	request    Request
	work       Work
	flow       string // the flow distinguisher
	queue      int32  // -1 without one
	state      state
	arrived    time.Duration
	started    time.Duration
	prev, next *Ticket
	ready      chan struct{} // has room for one; told when a waiting request may go on
}

type state uint8

const (
	waiting state = iota
	executing
	padding // carried out, but its final seats are still taken
)

// Admit returns when a request may be carried out. Else it fails: with ErrRefused when its level or queue is full or patience
// is over, with the context's error when ctx ends.
func (c *Controller) Admit(ctx context.Context, s *Schema, r *Request, w Work, patience time.Duration) (*Ticket, error) {
	t := c.spare.Get().(*Ticket)
	flow, hash := s.flow(r)
	*t = Ticket{controller: c, level: s.level, stats: s.stats, request: *r, work: w, flow: flow, queue: -1, ready: t.ready}
	now, kind := c.now(), c.traffic(r.Verb)
	switch s.level.arrive(now, t, hash) {
	case executing:
		kind.change(now, carriedOut, 1)
		return t, nil
	case waiting:
		kind.change(now, waitsForTurn, 1)
		defer func() { kind.change(c.now(), waitsForTurn, -1) }()
		if r.Queue != nil {
			r.Queue.Add(1)
			defer r.Queue.Add(-1)
		}
		return c.await(ctx, t, patience)
	}
	c.free(t)
	return nil, ErrRefused
}

// await waits until t is dispatched. The ticket is given back if it is not.
func (c *Controller) await(ctx context.Context, t *Ticket, patience time.Duration) (*Ticket, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-t.ready:
		c.traffic(t.request.Verb).change(c.now(), carriedOut, 1)
		return t, nil
	case <-timer.C:
		err = ErrRefused
	case <-ctx.Done():
		err = ctx.Err()
		if errors.Is(err, context.DeadlineExceeded) {
			err = ErrRefused
		}
	}
	if !t.level.leave(c.now(), t) {
		<-t.ready // it was dispatched just now
		c.traffic(t.request.Verb).change(c.now(), carriedOut, 1)
		if ctx.Err() == nil {
			return t, nil
		}
		t.Done()
		return nil, err
	}
	c.free(t)
	return nil, err
}

// Waited is how long the request waited in its queue.
func (t *Ticket) Waited() time.Duration { return t.started - t.arrived }

// Done gives the seats back, or all but the final ones, which follow after the extra time of the estimate.
func (t *Ticket) Done() {
	c := t.controller
	now := c.now()
	c.traffic(t.request.Verb).change(now, carriedOut, -1)
	if !t.level.finish(now, t) {
		c.free(t)
		return
	}
	time.AfterFunc(t.work.Extra, func() {
		t.level.release(c.now(), t)
		c.free(t)
	})
}

// free keeps a ticket for the next request.
func (c *Controller) free(t *Ticket) {
	*t = Ticket{ready: t.ready}
	c.spare.Put(t)
}
