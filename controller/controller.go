// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controller runs control loops.
//
// A loop says what it is for, what else it watches, and how to reconcile one key. The package owns the rest: views, queue,
// backoff, workers, metrics. Reconcile is level-triggered: it gets a key, reads the present state, decides, acts, and writes
// status last; running it again changes nothing. A missed or doubled event is no error. Start with Run.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// Defaults of a controller.
const (
	defaultWorkers = 4
	firstBackoff   = 5 * time.Millisecond
	lastBackoff    = 5 * time.Minute
)

// Controller is a control loop.
type Controller struct {
	Name string
	// For is the kind whose keys are reconciled.
	For *resource.Kind
	// Concerns, if set, says which changes of For need a look: obj is nil for a deletion, old for an addition. Nil is all.
	Concerns func(obj, old resource.Object) bool
	// Watches are other kinds whose changes concern keys of For.
	Watches []Watch
	// Needs are the rules of the loop's role.
	Needs []rbacv1.PolicyRule
	// Workers is how many keys are reconciled at once; 4 if 0.
	Workers int
	// Reconcile brings the world nearer to what the object of key says. again asks for another run after that time; 0 does not.
	// Errors are retried with backoff; conflicts are no news.
	Reconcile func(ctx context.Context, key client.Key) (again time.Duration, err error)
	// Run, if set, is a loop that is no reconciler: it blocks until ctx ends. For and Reconcile may then be nil.
	Run func(ctx context.Context) error
}

// Watch maps changes of one kind to keys.
type Watch struct {
	Kind *resource.Kind
	// Keys returns the keys that a change concerns. obj is nil for a deletion, old for an addition.
	Keys func(obj, old resource.Object) []client.Key
}

// Owned watches the objects of a kind that the controller's objects own.
func Owned(kind *resource.Kind, owner *resource.Kind) Watch {
	return Watch{Kind: kind, Keys: func(obj, old resource.Object) []client.Key {
		var keys []client.Key
		for _, o := range []resource.Object{obj, old} {
			if o == nil {
				continue
			}
			ref := metav1.GetControllerOfNoCopy(o)
			if ref != nil && ref.Kind == owner.Kind && ref.APIVersion == owner.GroupVersion().String() {
				keys = append(keys, client.Key{Namespace: o.GetNamespace(), Name: ref.Name})
			}
		}
		return keys
	}}
}

// Options tune Run; the zero value is usable.
type Options struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry
}

// Run runs a controller until ctx ends and leaves no goroutine behind.
func Run(ctx context.Context, c *client.Client, loop Controller, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("controller", loop.Name)
	if loop.Run != nil {
		return loop.Run(ctx)
	}
	r := &runner{loop: loop, log: o.Log, failing: map[client.Key]bool{}}
	r.queue = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[client.Key](firstBackoff, lastBackoff),
		workqueue.TypedRateLimitingQueueConfig[client.Key]{Name: loop.Name, MetricsProvider: newProvider(o.Metrics)},
	)
	return r.run(ctx, c)
}

// runner is a controller at work.
type runner struct {
	loop  Controller
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[client.Key]

	mu      sync.Mutex
	failing map[client.Key]bool // keys whose failure is logged already
}

func (r *runner) run(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watches := append([]Watch{{Kind: r.loop.For, Keys: r.itself}}, r.loop.Watches...)
	failed := make(chan error, len(watches))
	var synced, running sync.WaitGroup
	synced.Add(len(watches))
	for _, w := range watches {
		view, err := c.Transport().View(ctx, &call.Request{Kind: w.Kind})
		if err != nil {
			cancel()
			r.queue.ShutDown()
			running.Wait()
			return fmt.Errorf("controller %s: view of %s: %w", r.loop.Name, w.Kind.Resource, err)
		}
		running.Go(func() {
			var once sync.Once
			done := func() { once.Do(synced.Done) }
			defer done()
			err := view.Subscribe(ctx, func(obj, old resource.Object) {
				for _, key := range w.Keys(obj, old) {
					r.queue.Add(key)
				}
			}, done)
			if err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("controller %s: watch %s: %w", r.loop.Name, w.Kind.Resource, err)
			}
		})
	}
	synced.Wait() // every view is complete before the first decision
	workers := r.loop.Workers
	if workers == 0 {
		workers = defaultWorkers
	}
	for range workers {
		running.Go(func() {
			for r.next(ctx) {
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	r.queue.ShutDown()
	running.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// itself is the key of an object of the loop's own kind, if its change concerns the loop.
func (r *runner) itself(obj, old resource.Object) []client.Key {
	if r.loop.Concerns != nil && !r.loop.Concerns(obj, old) {
		return nil
	}
	if obj == nil {
		obj = old
	}
	return []client.Key{client.KeyOf(obj)}
}

// next reconciles one key; false means that the queue is closed.
func (r *runner) next(ctx context.Context) bool {
	key, closed := r.queue.Get()
	if closed {
		return false
	}
	defer r.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	again, err := r.loop.Reconcile(ctx, key)
	r.report(ctx, key, err)
	switch {
	case err != nil:
		r.queue.AddRateLimited(key)
	default:
		r.queue.Forget(key)
		if again > 0 {
			r.queue.AddAfter(key, again)
		}
	}
	return true
}

// report logs the first failure of a streak. Conflicts and objects that go away meanwhile are the normal course of things.
func (r *runner) report(ctx context.Context, key client.Key, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.failing, key)
		return
	}
	if r.failing[key] || ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) ||
		apierrors.HasStatusCause(err, "NamespaceTerminating") {
		return
	}
	r.failing[key] = true
	r.log.Error("reconcile", "key", key.String(), "error", err)
}
