// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/watchcache"
)

// objects is what admission, authorization and hooks see of the server: admission.Reader, admission.Writer and
// hooks.Store.
type objects struct{ server *Server }

func (s *Server) objects() *objects { return &objects{server: s} }

// Self is the identity of the server's own requests.
func self() *call.Identity {
	return &call.Identity{Name: "system:apiserver", Groups: []string{authn.GroupMasters, authn.GroupAuthenticated}}
}

// Get implements admission.Reader.
func (s *objects) Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error) {
	r, err := s.registry(kind)
	if err != nil {
		return nil, err
	}
	e, err := r.current(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	f, err := e.As(kind)
	if err != nil {
		return nil, err
	}
	return f.Object, nil
}

func (s *objects) registry(kind *resource.Kind) (*registry, error) {
	r := s.server.registry(kind)
	if r == nil || r.cache == nil {
		return nil, apierrors.NewNotFound(kind.GroupResource(), "")
	}
	return r, nil
}

// List implements admission.Reader.
func (s *objects) List(ctx context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error {
	r, err := s.registry(kind)
	if err != nil {
		return err
	}
	state, err := r.cache.Recent(ctx)
	if err != nil {
		return err
	}
	if state.Len() == 0 {
		return nil
	}
	state.Range(r.key(namespace, ""), "", func(e *watchcache.Entry) bool {
		f, ferr := e.As(kind)
		if ferr != nil {
			err = ferr
			return false
		}
		return each(f.Object)
	})
	return err
}

// Do implements admission.Writer.
func (s *objects) Do(ctx context.Context, q *call.Request) (*call.Result, error) {
	a, err := s.server.execute(ctx, self(), q, &spent{})
	if err != nil {
		return nil, err
	}
	return a.result(), nil
}

// Update implements hooks.Store.
func (s *objects) Update(ctx context.Context, kind *resource.Kind, namespace, name string, dryRun bool, change func(resource.Object) error) (resource.Object, error) {
	r, err := s.registry(kind)
	if err != nil {
		return nil, err
	}
	o := &operation{Request: &call.Request{Verb: "update", Kind: kind, Namespace: namespace, Name: name, DryRun: dryRun}, user: self()}
	defer o.finish()
	e, err := r.modify(ctx, o, change)
	if err != nil {
		return nil, r.status(name, err)
	}
	return e.Object, nil
}

// KindOf implements admission.Schema.
func (s *objects) KindOf(gvk schema.GroupVersionKind) *resource.Kind {
	for k, r := range s.server.served.Load().registries {
		if k.GroupVersionKind == gvk && r.cache != nil {
			return k
		}
	}
	return nil
}

// Merge implements admission.Schema.
func (s *objects) Merge(kind *resource.Kind, obj resource.Object, configuration map[string]any) (resource.Object, error) {
	return s.server.fields.Merge(kind, obj, configuration)
}
