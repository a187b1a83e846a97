// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scheduler gives pods nodes.
//
// Run takes pods that have no node from a queue, one at a time: a cycle computes the best node from a snapshot of the
// cluster and the rules in plugins, and counts the pod as there; the binding is written meanwhile, and taken back if
// that fails. A pod that fits nowhere may preempt others of lower priority; otherwise it waits until an event could
// help. What was decided is told by Events and the PodScheduled condition.
//
// Start with Run here, then cycle.go and plugins.All.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// Config tells how to schedule. The zero value is the default.
type Config struct {
	// Name is the schedulerName of the pods to schedule; "default-scheduler" unless set.
	Name string
	// PercentageOfNodesToScore is the part of nodes that suffices if they fit, in percent; what suits their number
	// unless set.
	PercentageOfNodesToScore int
	// InitialBackoff and MaxBackoff bound how long a pod rests after it was refused, 1 s and 10 s unless set.
	InitialBackoff, MaxBackoff time.Duration
	// MaxWait is after how long a pod that was refused gets another try without an event; 5 min unless set.
	MaxWait time.Duration
	// Parallelism bounds the writes under way; 64 unless set.
	Parallelism int
	// Metrics, if not nil, has the metrics during Run.
	Metrics prometheus.Registerer
	// Seed makes the choice between equal nodes repeatable.
	Seed uint64
}

// Validate returns every problem.
func (c Config) Validate() error {
	var errs []error
	if p := c.PercentageOfNodesToScore; p < 0 || p > 100 {
		errs = append(errs, fmt.Errorf("percentageOfNodesToScore: %d is not between 0 and 100", p))
	}
	if c.InitialBackoff < 0 || c.MaxBackoff < 0 || c.MaxWait < 0 || c.Parallelism < 0 {
		errs = append(errs, errors.New("initialBackoff, maxBackoff, maxWait, parallelism: must not be negative"))
	}
	return errors.Join(errs...)
}

// Scheduler gives pods nodes.
type Scheduler struct {
	cfg       Config
	client    *client.Client
	log       *slog.Logger
	pods      client.Resource[corev1.Pod]
	state     *snapshot.State
	queue     *queue
	nominated *nominations
	cycle     *cycle
	failures  memory
	events    *recorder
	metrics   *metrics

	slots   chan struct{} // taken by writes under way
	effects sync.WaitGroup
}

// New returns a scheduler. It does nothing until Run, which may be called once.
func New(cfg Config, c *client.Client, log *slog.Logger) *Scheduler {
	cfg.Name = cmp.Or(cfg.Name, corev1.DefaultSchedulerName)
	cfg.Parallelism = cmp.Or(cfg.Parallelism, 64)
	queue := newQueue(cmp.Or(cfg.InitialBackoff, time.Second), cmp.Or(cfg.MaxBackoff, 10*time.Second), cmp.Or(cfg.MaxWait, 5*time.Minute))
	return &Scheduler{
		cfg: cfg, client: c, log: log, pods: client.Of(c, core.Pods), state: snapshot.NewState(), queue: queue, nominated: newNominations(),
		cycle:  &cycle{plugins: plugins.All(), percent: cfg.PercentageOfNodesToScore, random: rand.New(rand.NewPCG(cfg.Seed, 1))},
		events: newRecorder(c, cfg.Name), metrics: newMetrics(cfg.Name, queue), failures: memory{}, slots: make(chan struct{}, cfg.Parallelism),
	}
}

// Run schedules until ctx ends, and then returns nil.
func (s *Scheduler) Run(ctx context.Context) error {
	unregister, err := s.metrics.register(s.cfg.Metrics)
	if err != nil {
		return err
	}
	defer unregister()
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer s.effects.Wait()
	defer cancel(nil)
	group.Go(func() { s.events.run(ctx) })
	synced, err := s.subscribe(ctx, cancel, &group)
	if err != nil {
		return ended(ctx, err)
	}
	for range cap(synced) {
		select {
		case <-ctx.Done():
			return ended(ctx, context.Cause(ctx))
		case <-synced:
		}
	}
	s.log.Info("scheduling", "scheduler", s.cfg.Name)
	return ended(ctx, s.loop(ctx))
}

// ended is what Run returns: nil if it was asked to end.
func ended(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// loop tries pods until ctx ends.
func (s *Scheduler) loop(ctx context.Context) error {
	const flushEvery = 30 * time.Second
	snap, flushed := s.state.Snapshot(), time.Now()
	timer := time.NewTimer(flushEvery)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(flushed) >= flushEvery {
			s.queue.flush(now)
			flushed = now
		}
		e, pod, wait := s.queue.pop(now)
		if e != nil {
			s.try(ctx, e, pod, snap)
			continue
		}
		timer.Reset(min(wait, flushEvery))
		select {
		case <-ctx.Done():
		case <-s.queue.wake:
		case <-timer.C:
		}
	}
	return context.Cause(ctx)
}

// try gives one pod a node, or finds out why there is none.
func (s *Scheduler) try(ctx context.Context, e *entry, pod *snapshot.Pod, snap *snapshot.Snapshot) {
	if s.known(ctx, e, pod) {
		return
	}
	s.state.Refresh(snap)
	start := time.Now()
	node, diagnosis := s.cycle.choose(pod, snap, s.nominated)
	s.metrics.algorithm.Observe(time.Since(start).Seconds())
	if node != nil {
		name := node.Name
		s.state.Assume(pod.On(name))
		s.launch(ctx, func() { s.bind(ctx, e, pod, name) })
		return
	}
	r := s.room(snap, pod, diagnosis)
	if r.preempt == nil && r.nominated == "" {
		s.failures.keep(signature(pod), failure{message: r.message, helps: r.helps, moment: e.moment})
	}
	s.metrics.attempt(resultUnschedulable, time.Since(start))
	s.nominated.set(pod, r.nominated)
	s.launch(ctx, func() { s.refuse(ctx, e, pod, r) })
}

// room looks for pods to preempt, and says what becomes of the pod.
func (s *Scheduler) room(snap *snapshot.Snapshot, pod *snapshot.Pod, d *diagnosis) refusal {
	r := refusal{reason: corev1.PodReasonUnschedulable, message: d.message, helps: d.helps}
	if d.rules == nil {
		return r
	}
	before, why := s.nominated.node(pod.UID), ""
	if r.preempt, why = s.cycle.preempt(d, before); why != "" {
		r.message += " preemption: " + why
	}
	if r.preempt != nil {
		r.nominated = r.preempt.node.Name
		s.metrics.preempts.Inc()
		s.metrics.victims.Observe(float64(len(r.preempt.victims)))
	} else if n := snap.Node(before); n != nil && terminating(n, pod) {
		r.nominated = before // room is being made
	}
	return r
}

// known puts a pod back to wait if one like it was refused and nothing happened since that could help.
func (s *Scheduler) known(ctx context.Context, e *entry, pod *snapshot.Pod) bool {
	if len(s.failures) == 0 || s.nominated.node(pod.UID) != "" {
		return false
	}
	f, refused := s.failures[signature(pod)]
	if !refused || !s.queue.quiet(f.helps, f.moment) {
		return false
	}
	if told(pod.Pod, f.message) {
		s.queue.spare(e, f.helps, time.Now())
		return true
	}
	s.metrics.attempt(resultUnschedulable, 0)
	s.launch(ctx, func() {
		s.refuse(ctx, e, pod, refusal{reason: corev1.PodReasonUnschedulable, message: f.message, helps: f.helps})
	})
	return true
}

// told tells whether a pod's condition says this already.
func told(p *corev1.Pod, message string) bool {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			return c.Reason == corev1.PodReasonUnschedulable && c.Message == message && p.Status.NominatedNodeName == ""
		}
	}
	return false
}

// launch runs a write beside the loop, as soon as there is a slot.
func (s *Scheduler) launch(ctx context.Context, write func()) {
	select {
	case <-ctx.Done():
		return
	case s.slots <- struct{}{}:
	}
	s.effects.Go(func() {
		defer func() { <-s.slots }()
		write()
	})
}
