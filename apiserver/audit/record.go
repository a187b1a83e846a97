// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package audit records who did what, as an audit policy asks for it.
//
// A Record follows one request; nil is a valid one that records nothing, so a server without audit pays for nothing.
package audit

import (
	"context"
	"sync"

	"knarr.dev/api/call"
)

// Record gathers what is to be said about one request. Its methods may be called on nil.
type Record struct {
	mu           sync.Mutex
	annotations  map[string]string
	impersonated *call.Identity
}

type recordKey struct{}

// With returns a context that carries r.
func With(ctx context.Context, r *Record) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, recordKey{}, r)
}

// Of returns the record of a request, or nil.
func Of(ctx context.Context) *Record {
	r, _ := ctx.Value(recordKey{}).(*Record)
	return r
}

// Annotate adds an annotation to the record of a request, if there is one.
func Annotate(ctx context.Context, key, value string) { Of(ctx).Annotate(key, value) }

// Annotate adds an annotation; the first value of a key stays.
func (r *Record) Annotate(key, value string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.annotations[key]; ok {
		return
	}
	if r.annotations == nil {
		r.annotations = map[string]string{}
	}
	r.annotations[key] = value
}

// Impersonated says as whom the user acts.
func (r *Record) Impersonated(user *call.Identity) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.impersonated = user
}
