// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package client is the typed client of the API, for components of this program and for programs that embed it.
//
// New wraps a call.Transport: the API server's in-process one, or NewHTTP's. Of gives the typed resource of a kind:
//
//	pods := client.Of(c, core.Pods)
//	pod, err := pods.Get(ctx, client.Key{Namespace: "default", Name: "web"})
//
// Reads through Get and List ask the server. Reads through View are local and show the recent past. Objects that come
// out of this package are shared: never modify one, DeepCopy first. Errors are API errors; branch on them with
// k8s.io/apimachinery/pkg/api/errors.
package client

import (
	"context"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
)

// Client asks one API server under one identity.
type Client struct{ transport call.Transport }

// New returns a client over t.
func New(t call.Transport) *Client { return &Client{transport: t} }

// Transport returns what carries the client's requests.
func (c *Client) Transport() call.Transport { return c.transport }

// Key names an object; Namespace is empty for cluster-scoped kinds.
type Key struct{ Namespace, Name string }

// String returns namespace/name, or the name alone.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// KeyOf names an object.
func KeyOf(o metav1.Object) Key { return Key{Namespace: o.GetNamespace(), Name: o.GetName()} }

// Resource is the typed access to one kind.
type Resource[T any] struct {
	client *Client
	kind   *resource.Type[T]
	// Manager is the field manager of writes; the server derives one from the identity if it is empty.
	Manager string
}

// Of returns the resource of a kind.
func Of[T any](c *Client, kind *resource.Type[T]) Resource[T] {
	return Resource[T]{client: c, kind: kind}
}

// Get reads one object from the server.
func (r Resource[T]) Get(ctx context.Context, key Key) (*T, error) {
	return r.object(ctx, &call.Request{Verb: "get", Namespace: key.Namespace, Name: key.Name})
}

// ListOptions narrow a list or view.
type ListOptions struct {
	Namespace string
	Labels    labels.Selector
	Fields    fields.Selector
}

// List reads all matching objects from the server, at one revision, which it returns too.
func (r Resource[T]) List(ctx context.Context, o ListOptions) ([]*T, string, error) {
	res, err := r.do(ctx, &call.Request{Verb: "list", Namespace: o.Namespace, Labels: o.Labels, Fields: o.Fields})
	if err != nil {
		return nil, "", err
	}
	items := make([]*T, len(res.List.Items))
	for i, o := range res.List.Items {
		items[i] = r.kind.Cast(o)
	}
	return items, res.List.ResourceVersion, nil
}

// Create makes an object. The client owns obj from here on.
func (r Resource[T]) Create(ctx context.Context, obj *T) (*T, error) {
	o := r.kind.Erase(obj)
	return r.object(ctx, &call.Request{Verb: "create", Namespace: o.GetNamespace(), Object: o})
}

// Update replaces an object; a stale resourceVersion is a conflict. The client owns obj from here on.
func (r Resource[T]) Update(ctx context.Context, obj *T) (*T, error) { return r.update(ctx, obj, "") }

// UpdateStatus replaces the status of an object. The client owns obj from here on.
func (r Resource[T]) UpdateStatus(ctx context.Context, obj *T) (*T, error) {
	return r.update(ctx, obj, "status")
}

func (r Resource[T]) update(ctx context.Context, obj *T, subresource string) (*T, error) {
	o := r.kind.Erase(obj)
	return r.object(ctx, &call.Request{
		Verb: "update", Namespace: o.GetNamespace(), Name: o.GetName(), Subresource: subresource, Object: o,
	})
}

// Patch applies a patch to an object or, if subresource is not empty, to that.
func (r Resource[T]) Patch(ctx context.Context, key Key, kind types.PatchType, patch []byte, subresource string) (*T, error) {
	return r.object(ctx, &call.Request{
		Verb: "patch", Namespace: key.Namespace, Name: key.Name, Subresource: subresource, Patch: patch, PatchType: kind,
	})
}

// Delete deletes an object; options may be nil.
func (r Resource[T]) Delete(ctx context.Context, key Key, options *metav1.DeleteOptions) error {
	_, err := r.do(ctx, &call.Request{Verb: "delete", Namespace: key.Namespace, Name: key.Name, Delete: options})
	return err
}

// DeleteCollection deletes all matching objects.
func (r Resource[T]) DeleteCollection(ctx context.Context, o ListOptions, options *metav1.DeleteOptions) error {
	_, err := r.do(ctx, &call.Request{
		Verb: "deletecollection", Namespace: o.Namespace, Labels: o.Labels, Fields: o.Fields, Delete: options,
	})
	return err
}

// CreateSub posts body to a subresource (binding, eviction, token) and returns what came back, which may be nil.
func (r Resource[T]) CreateSub(ctx context.Context, key Key, subresource string, body resource.Object) (resource.Object, error) {
	res, err := r.do(ctx, &call.Request{
		Verb: "create", Namespace: key.Namespace, Name: key.Name, Subresource: subresource, Object: body,
	})
	if err != nil {
		return nil, err
	}
	return res.Object, nil
}

func (r Resource[T]) do(ctx context.Context, q *call.Request) (*call.Result, error) {
	q.Kind, q.FieldManager = r.kind.Kind, r.Manager
	return r.client.transport.Do(ctx, q)
}

func (r Resource[T]) object(ctx context.Context, q *call.Request) (*T, error) {
	res, err := r.do(ctx, q)
	if err != nil {
		return nil, err
	}
	if res.Object == nil {
		return nil, nil
	}
	return r.kind.Cast(res.Object), nil
}

// View returns the local view of all matching objects, once complete. The namespace of o is ignored.
func (r Resource[T]) View(ctx context.Context, o ListOptions) (View[T], error) {
	v, err := r.client.transport.View(ctx, &call.Request{Kind: r.kind.Kind, Labels: o.Labels, Fields: o.Fields})
	return View[T]{kind: r.kind, view: v}, err
}

// View is the typed local view of a kind.
type View[T any] struct {
	kind *resource.Type[T]
	view call.View
}

// Get returns the object, or nil.
func (v View[T]) Get(key Key) *T {
	o, ok := v.view.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	return v.kind.Cast(o)
}

// All iterates over the objects of a namespace, or of all if it is empty, in key order.
func (v View[T]) All(namespace string) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		v.view.List(namespace, func(o resource.Object) bool { return yield(v.kind.Cast(o)) })
	}
}

// Subscribe is call.View's, typed: obj is nil for a deletion, old for an addition.
func (v View[T]) Subscribe(ctx context.Context, changed func(obj, old *T), synced func()) error {
	typed := func(o resource.Object) *T {
		if o == nil {
			return nil
		}
		return v.kind.Cast(o)
	}
	return v.view.Subscribe(ctx, func(obj, old resource.Object) { changed(typed(obj), typed(old)) }, synced)
}
