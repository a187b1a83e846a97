// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package crd serves the resources that CustomResourceDefinitions define.
//
// Kinds makes resource.Kind values of a definition, over unstructured objects: schemas, defaults, rules, columns and
// conversion, so that custom objects take the server's one path. A Loop follows the definitions: it accepts their names, lets
// the server serve what is established, and empties resources whose definitions are deleted. Nothing of a schema is
// compiled before there is a definition. Start with NewLoop and Run.
package crd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
)

// Finalizer keeps a definition until its objects are gone.
const Finalizer = apiextensionsv1.CustomResourceCleanupFinalizer

// Waits of the loop: after a failure, and while objects with finalizers keep a definition from going.
const (
	retryAfter = time.Second
	pollAfter  = 500 * time.Millisecond
)

// Server is what the loop does to the server that it belongs to. Serve and Withdraw are called by one goroutine.
type Server interface {
	// Serve serves the versions of a resource from when it returns, instead of what was served under its name before.
	Serve(ctx context.Context, hub *resource.Kind, versions []*resource.Kind) error
	// Withdraw stops serving a resource.
	Withdraw(resource schema.GroupResource)
	// Do carries out a request as the server itself.
	Do(ctx context.Context, r *call.Request) (*call.Result, error)
}

// Loop keeps what is served in step with the definitions.
type Loop struct {
	server    Server
	converter Converter
	figures   *Figures
	log       *slog.Logger
	ready     chan struct{}

	mu    sync.Mutex
	dirty map[string]bool
	wake  chan struct{} // has room for one

	// Of the worker alone.
	definitions call.View
	served      map[string]*apiextensionsv1.CustomResourceDefinition // by name, as they were when they came to be served
}

// NewLoop returns a loop that does nothing yet. converter may be nil: then there are no conversion webhooks. figures may be nil.
func NewLoop(server Server, converter Converter, figures *Figures, log *slog.Logger) *Loop {
	return &Loop{
		server: server, converter: converter, figures: figures, log: log, ready: make(chan struct{}), dirty: map[string]bool{}, wake: make(chan struct{}, 1),
		served: map[string]*apiextensionsv1.CustomResourceDefinition{},
	}
}

// Ready is closed when everything is served that was established when Run began.
func (l *Loop) Ready() <-chan struct{} { return l.ready }

// Run follows the definitions of a view until ctx ends.
func (l *Loop) Run(ctx context.Context, definitions call.View) {
	l.definitions = definitions
	var wg sync.WaitGroup
	defer wg.Wait()
	synced := make(chan struct{})
	wg.Go(func() {
		_ = definitions.Subscribe(ctx, func(obj, old resource.Object) { // it ends with ctx
			if obj == nil {
				obj = old
			}
			l.mark(obj.GetName())
		}, func() { close(synced) })
	})
	select {
	case <-synced:
	case <-ctx.Done():
		return
	}
	for first := true; ; first = false {
		for _, name := range l.take() {
			if ctx.Err() != nil {
				return
			}
			if again, err := l.reconcile(ctx, name); again > 0 || err != nil {
				if err != nil {
					again = max(again, retryAfter)
					l.log.Warn("custom resource definition", "name", name, "err", err)
				}
				wg.Go(func() { l.markAfter(ctx, name, again) })
			}
		}
		if first {
			close(l.ready)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
	}
}

func (l *Loop) mark(name string) {
	l.mu.Lock()
	l.dirty[name] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Loop) markAfter(ctx context.Context, name string, wait time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(wait):
		l.mark(name)
	}
}

func (l *Loop) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := make([]string, 0, len(l.dirty))
	for name := range l.dirty {
		names = append(names, name)
	}
	clear(l.dirty)
	return names
}

// reconcile brings the server in step with one definition; a duration above 0 asks to be called again after it.
func (l *Loop) reconcile(ctx context.Context, name string) (time.Duration, error) {
	obj, ok := l.definitions.Get("", name)
	if !ok {
		l.withdraw(name)
		return 0, nil
	}
	d := extension.CustomResourceDefinitions.Cast(obj)
	if d.DeletionTimestamp == nil {
		if status := accept(d, l.others(d), metav1.Now().Rfc3339Copy()); status != nil {
			next := d.DeepCopy()
			next.Status = *status
			made, err := l.update(ctx, next)
			if err != nil || made == nil {
				return 0, err
			}
			d = made
		}
	}
	if err := l.serve(ctx, d); err != nil {
		return 0, err
	}
	if d.DeletionTimestamp != nil {
		return l.finalize(ctx, d)
	}
	return 0, nil
}

// update writes status and finalizers; nil means that somebody else wrote meanwhile, which brings the loop here again.
func (l *Loop) update(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) (*apiextensionsv1.CustomResourceDefinition, error) {
	res, err := l.server.Do(ctx, &call.Request{
		Verb: "update", Kind: extension.CustomResourceDefinitions.Kind, Name: d.Name, Subresource: "status", Object: d,
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return extension.CustomResourceDefinitions.Cast(res.Object), nil
}

// others are the other definitions of a group.
func (l *Loop) others(d *apiextensionsv1.CustomResourceDefinition) []*apiextensionsv1.CustomResourceDefinition {
	var out []*apiextensionsv1.CustomResourceDefinition
	l.definitions.List("", func(o resource.Object) bool {
		if other := extension.CustomResourceDefinitions.Cast(o); other.Spec.Group == d.Spec.Group && other.Name != d.Name {
			out = append(out, other)
		}
		return true
	})
	return out
}

// serve serves a definition if it is established, anew if it changed in what matters to requests.
func (l *Loop) serve(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) error {
	if !extension.Is(d, apiextensionsv1.Established) {
		return nil
	}
	old := l.served[d.Name]
	if old != nil && old.UID != d.UID {
		l.withdraw(d.Name)
		old = nil
	}
	if old != nil && equality.Semantic.DeepEqual(old.Spec, d.Spec) && equality.Semantic.DeepEqual(old.Status.AcceptedNames, d.Status.AcceptedNames) {
		return nil
	}
	hub, versions, err := Kinds(d, l.converter, l.figures)
	if err != nil {
		return err
	}
	if err := l.server.Serve(ctx, hub, versions); err != nil {
		return err
	}
	l.served[d.Name] = d
	return nil
}

// withdraw stops serving a definition that is gone, and lets others have its names.
func (l *Loop) withdraw(name string) {
	old := l.served[name]
	if old == nil {
		return
	}
	delete(l.served, name)
	l.server.Withdraw(schema.GroupResource{Group: old.Spec.Group, Resource: old.Status.AcceptedNames.Plural})
	for _, other := range l.others(old) {
		l.mark(other.Name)
	}
}

// finalize deletes the objects of a definition that is being deleted, and lets the definition go when none are left.
func (l *Loop) finalize(ctx context.Context, d *apiextensionsv1.CustomResourceDefinition) (time.Duration, error) {
	next := d.DeepCopy()
	kept := next.Finalizers[:0]
	for _, f := range next.Finalizers {
		if f != Finalizer {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(d.Finalizers) {
		return 0, nil
	}
	terminating := condition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue,
		Reason: "InstanceDeletionInProgress", Message: "CustomResource deletion is in progress",
	}
	if old := l.served[d.Name]; old != nil {
		left, err := l.empty(ctx, extension.Kinds(old))
		if err != nil {
			terminating.Reason, terminating.Message = "InstanceDeletionFailed", "could not delete instances: "+err.Error()
		}
		if left || err != nil {
			setCondition(&next.Status, terminating, metav1.Now().Rfc3339Copy())
			if !equality.Semantic.DeepEqual(next.Status, d.Status) {
				if _, werr := l.update(ctx, next); werr != nil {
					return 0, werr
				}
			}
			return pollAfter, err
		}
		// Nobody can make objects any more from here on; what was made meanwhile goes too.
		l.server.Withdraw(schema.GroupResource{Group: old.Spec.Group, Resource: old.Status.AcceptedNames.Plural})
		delete(l.served, d.Name)
	}
	terminating.Status, terminating.Reason, terminating.Message = apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"
	setCondition(&next.Status, terminating, metav1.Now().Rfc3339Copy())
	next.Finalizers = kept
	if _, err := l.update(ctx, next); err != nil {
		return 0, err
	}
	for _, other := range l.others(d) {
		l.mark(other.Name)
	}
	return 0, nil
}

// empty deletes all objects and says whether some are left, which have finalizers of others.
func (l *Loop) empty(ctx context.Context, kinds []*resource.Kind) (left bool, err error) {
	if len(kinds) == 0 {
		return false, nil
	}
	res, err := l.server.Do(ctx, &call.Request{Verb: "list", Kind: kinds[0]})
	if err != nil {
		return false, err
	}
	background := metav1.DeletePropagationBackground
	for _, o := range res.List.Items {
		if o.GetDeletionTimestamp() != nil {
			left = true
			continue
		}
		res, err := l.server.Do(ctx, &call.Request{
			Verb: "delete", Kind: kinds[0], Namespace: o.GetNamespace(), Name: o.GetName(),
			Delete: &metav1.DeleteOptions{PropagationPolicy: &background},
		})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return false, err
		case res.Object != nil && len(res.Object.GetFinalizers()) > 0:
			left = true
		}
	}
	return left, nil
}
