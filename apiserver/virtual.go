// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/apiserver/watchcache"
)

// readVirtual answers get and list of a kind that is not stored, with what its hook makes.
func (r *registry) readVirtual(ctx context.Context, o *operation) (*answer, error) {
	h := r.hook("")
	if h == nil || h.List == nil || !slices.Contains(r.kind.Verbs, o.Verb) {
		return nil, apierrors.NewMethodNotSupported(r.kind.GroupResource(), o.Verb)
	}
	if o.Verb == "list" {
		if err := r.checkListOptions(o.Request, false); err != nil {
			return nil, err
		}
	}
	objects, err := h.List(ctx)
	if err != nil {
		return nil, err
	}
	match := r.matcher(o.Request)
	out := &listAnswer{}
	for _, obj := range objects {
		e := watchcache.NewEntry(r.kind, r.key(obj.GetNamespace(), obj.GetName()), obj, 0)
		if o.Verb == "get" && obj.GetName() == o.Name {
			return &answer{entry: e}, nil
		}
		if match == nil || match(obj) {
			out.entries = append(out.entries, e)
		}
	}
	if o.Verb == "get" {
		gr := r.kind.GroupResource()
		gr.Resource = r.kind.Singular // as Kubernetes says it
		return nil, apierrors.NewNotFound(gr, o.Name)
	}
	return &answer{list: out}, nil
}
