// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package admission changes and checks writes with knowledge of other objects.
//
// Each step is a file; steps.go lists them in the order in which they act. Rules that need the object alone belong to
// its kind in package api.
package admission

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
)

// Request is one write on its way to storage, after defaulting and authorization.
type Request struct {
	// Verb is create, update, delete or connect. Patches and applies come as create or update.
	Verb        string
	Kind        *resource.Kind
	Subresource string
	// Served is the form of the kind that the request names; Kind, the stored one, if it is nil. Forms lists all forms that are served.
	Served *resource.Kind
	Forms  func() []*resource.Kind
	// Body is the kind of the body if that of the resource is another one.
	Body            schema.GroupVersionKind
	Namespace, Name string
	User            *call.Identity
	// Object is the new object, owned by the request; Old the stored one, shared. Either may be nil.
	Object, Old resource.Object
	DryRun      bool
	Delete      *call.Request // the whole request for delete, else nil
	// Call is the whole request; nil if there is none.
	Call *call.Request
	// Warn adds a Warning header.
	Warn func(text string)
	// Annotate adds an audit annotation.
	Annotate func(key, value string)
	// Undo registers what takes back a step's reservation if the write does not happen after all.
	Undo func(func())
	// Finally registers what runs when the request is over, whether the write happened or not. If it did, readers show it by then.
	Finally func(func())
	// Spent gets the time that admission takes; may be nil.
	Spent *Spent

	// round counts the runs of the mutating steps; changed says that a webhook or policy changed the object; seen has what
	// those that want to be called again made of it.
	round   int
	changed bool
	seen    map[any]string
}

// Again starts the second and last run of the mutating steps, if a webhook or policy changed the object: then those that
// came before it see it as it is now.
func (r *Request) Again() bool {
	if r.round > 0 || !r.changed {
		return false
	}
	r.round++
	return true
}

// due tells whether a webhook or policy is to be called in this run, and remembers afterwards what it made of the object.
func (r *Request) due(id any, again bool) bool {
	if r.round == 0 {
		return true
	}
	was, called := r.seen[id]
	return again && called && was != r.state()
}

func (r *Request) called(id any, again bool) {
	if !again {
		return
	}
	if r.seen == nil {
		r.seen = map[any]string{}
	}
	r.seen[id] = r.state()
}

// Spent is the time that a request spent in admission, in nanoseconds.
type Spent struct {
	// Webhooks is part of All: waiting for other servers.
	All, Webhooks atomic.Int64
}

// waited counts time spent waiting for webhooks.
func (r *Request) waited(took time.Duration) {
	if r.Spent != nil {
		r.Spent.Webhooks.Add(int64(took))
	}
}

// Step is one admission plug-in. Mutate may change Object; all Mutates run before the object is validated and before all
// Validates. Errors are API errors (usually Forbidden).
type Step struct {
	Name             string
	Mutate, Validate func(ctx context.Context, r *Request) error
}

// Reader reads current objects, from the server's caches. Objects are shared.
type Reader interface {
	// Get returns a NotFound API error if there is none.
	Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error)
	// List calls each for the objects of a namespace, or all, until it returns false.
	List(ctx context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error
}

// Writer writes through the whole pipeline, as the server itself (system:apiserver).
type Writer interface {
	Do(ctx context.Context, r *call.Request) (*call.Result, error)
}
