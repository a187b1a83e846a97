// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package call is one API request as a value, before any encoding.
//
// Transport is what carries it: the API server's own pipeline in the same process, or HTTP. Both mean the same, so a
// component does not know which one it has. Errors are *k8s.io/apimachinery/pkg/api/errors.StatusError everywhere.
package call

import (
	"context"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/api/resource"
)

// Identity is who asks.
type Identity struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

// UserInfo is the identity as reviews and audit events have it. It shares groups and values with i.
func (i *Identity) UserInfo() authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: i.Name, UID: i.UID, Groups: i.Groups}
	for key, values := range i.Extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// Method is the method of HTTP that a verb is asked for with; empty for what is no verb.
func Method(verb string) string {
	switch verb {
	case "get", "list", "watch":
		return http.MethodGet
	case "create":
		return http.MethodPost
	case "update":
		return http.MethodPut
	case "patch":
		return http.MethodPatch
	case "delete", "deletecollection":
		return http.MethodDelete
	}
	return ""
}

// Request is one request for a kind's resource. Fields that a verb does not use are zero.
type Request struct {
	// Verb is a verb of RBAC: get, list, watch, create, update, patch, delete, deletecollection.
	Verb            string
	Kind            *resource.Kind
	Namespace, Name string
	// Subresource is its name, or empty.
	Subresource string

	// Object is the body of create and update. It may be of another kind for subresources (Binding, Eviction, Scale).
	// The receiver owns it from here on: the caller must not keep it.
	Object resource.Object
	// Renew, if set, makes Object anew as it was, for an update that is tried again. Without it the server keeps a copy.
	Renew func() (resource.Object, error)
	Patch []byte
	// PatchType is one of types.JSONPatchType, MergePatchType, StrategicMergePatchType, ApplyYAMLPatchType.
	PatchType types.PatchType

	DryRun       bool
	FieldManager string
	// ManagerImplied says that the client named no field manager: FieldManager is what goes without saying.
	ManagerImplied  bool
	FieldValidation string // Strict, Warn, Ignore or empty
	Force           bool   // of apply
	Delete          *metav1.DeleteOptions

	// Labels and Fields select; nil is everything.
	Labels               labels.Selector
	Fields               fields.Selector
	Limit                int64
	Continue             string
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	SendInitialEvents    *bool
	AllowBookmarks       bool
	Timeout              time.Duration // of a watch; 0 is the server's choice
}

// Result answers a request. Objects are shared and must not be modified: DeepCopy first.
type Result struct {
	Object resource.Object
	// List answers list and deletecollection.
	List *List
	// Created tells 201 from 200.
	Created  bool
	Warnings []string
	// Status is set instead of Object where the API answers a Status.
	Status *metav1.Status
}

// List is a page of objects.
type List struct {
	Items           []resource.Object
	ResourceVersion string
	Continue        string
	Remaining       *int64
}

// Stream is a watch. Event.Object is shared and must not be modified. A watch.Error event carries a *metav1.Status
// and is the last one.
type Stream interface {
	// Next blocks for the next event. It returns io.EOF when the server ended the watch in good order.
	Next(ctx context.Context) (watch.Event, error)
	Close()
}

// View is the current state of one resource, kept up to date: the API server's own cache in the same process, or a
// copy that a watch maintains. Objects are shared and must not be modified.
type View interface {
	// Get returns the object, or false.
	Get(namespace, name string) (resource.Object, bool)
	// List calls each for every object of the namespace (all namespaces if empty), in key order, until it returns false.
	List(namespace string, each func(resource.Object) bool)
	// Subscribe calls changed for each object there is, with old nil, then synced once, then changed for each change: obj is nil when old
	// was deleted. The view shows at least what changed was told. Calls are sequential, on one goroutine; events may be
	// merged if changed is slow. It returns when ctx ends, with ctx.Err().
	Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error
}

// Transport carries requests to an API server under one identity.
type Transport interface {
	// Do carries out any verb but watch.
	Do(ctx context.Context, r *Request) (*Result, error)
	// Watch opens a watch.
	Watch(ctx context.Context, r *Request) (Stream, error)
	// View returns the view of the objects of a kind that match r.Labels and r.Fields, once it is complete. It lives until the
	// transport is closed; the same question returns the same view.
	View(ctx context.Context, r *Request) (View, error)
}
