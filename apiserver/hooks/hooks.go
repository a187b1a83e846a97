// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package hooks holds the server-side behaviour of the few kinds and subresources that need more than storage:
// reviews, tokens, bindings, evictions, service addresses, namespace finalization.
//
// One file each; All lists them.
package hooks

import (
	"context"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/admission"
)

// Store is what a hook may do to objects: read them, and change one atomically.
type Store interface {
	admission.Reader
	// Update changes one object in a loop of read, change, compare-and-write; change gets a copy that it owns and may refuse with an
	// API error. With dryRun nothing is written. No admission runs; the object is validated.
	Update(ctx context.Context, kind *resource.Kind, namespace, name string, dryRun bool, change func(resource.Object) error) (resource.Object, error)
	admission.Writer
}

// Hook is the behaviour of one kind, or of one subresource of it. Every field but Kind may be nil.
type Hook struct {
	Kind        *resource.Kind
	Subresource string
	// Create answers POST instead of storage (virtual kinds, and subresources such as binding). The request has been authorized and admitted.
	Create func(ctx context.Context, user *call.Identity, r *call.Request) (resource.Object, error)
	// List answers get and list of a virtual kind with all its objects, which nobody else may have.
	List func(ctx context.Context) ([]resource.Object, error)
	// Update answers PUT and PATCH of a subresource other than status and scale (namespace finalize, pod ephemeralcontainers, pod resize):
	// it copies from obj, the body, what may change into stored, a copy it owns.
	Update func(ctx context.Context, obj, stored resource.Object) error
	// BeforeCreate and BeforeUpdate run between admission and validation of the main resource, or BeforeUpdate of status, BeforeDelete before it goes.
	BeforeCreate func(ctx context.Context, r *admission.Request) error
	BeforeUpdate func(ctx context.Context, r *admission.Request) error
	// AfterDelete runs when the object is gone from storage.
	AfterDelete func(ctx context.Context, obj resource.Object)
}
