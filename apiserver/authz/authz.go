// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package authz decides whether somebody may do something.
//
// New joins, in Kubernetes' order, the superuser group, the node authorizer and RBAC; Chain joins others, such as those that
// ParseConfiguration makes of a file. Decisions read the present roles
// and bindings from the server's cache, so a binding counts from the moment its write is acknowledged. The bootstrap
// roles are in bootstrap.jsonl; Bootstrap reads them.
package authz

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authn"
)

// Attributes are what a decision depends on.
type Attributes struct {
	User *call.Identity
	Verb string
	// Path is set, and the rest empty, for requests that name no resource (/healthz).
	Path                                                   string
	Group, Version, Resource, Subresource, Namespace, Name string
	// Fields is the field selector of list, watch and deletecollection: nodes may list the pods that it limits to their own. nil
	// is unknown, fields.Everything() none.
	Fields fields.Selector
	// Labels is the label selector of the same verbs; nil is none.
	Labels labels.Selector
}

// Authorizer decides. The reason is for the log and, when refused, for the client.
type Authorizer interface {
	Authorize(ctx context.Context, a *Attributes) (allowed bool, reason string, err error)
}

// Reader reads current objects, from the server's caches; admission.Reader is one. Objects are shared.
type Reader interface {
	Get(ctx context.Context, kind *resource.Kind, namespace, name string) (resource.Object, error)
	List(ctx context.Context, kind *resource.Kind, namespace string, each func(resource.Object) bool) error
}

// New returns the authorizer of the server.
func New(reader Reader) Authorizer { return Chain(NewNode(reader), NewRBAC(reader)) }

// union allows what one of its members allows.
type union []Authorizer

func (u union) Authorize(ctx context.Context, a *Attributes) (bool, string, error) {
	decision, reason, err := u.Decide(ctx, a)
	return decision == Allow, reason, err
}

// superuser allows everything to system:masters, whatever has become of the roles.
type superuser struct{}

func (superuser) Authorize(_ context.Context, a *Attributes) (bool, string, error) {
	for _, group := range a.User.Groups {
		if group == authn.GroupMasters {
			return true, "", nil
		}
	}
	return false, "", nil
}

// Forbidden is the API error for a refused request, in Kubernetes' words.
func Forbidden(a *Attributes, reason string) *apierrors.StatusError {
	text := Describe(a)
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(text))
}

// Describe says what was refused.
func Describe(a *Attributes) string {
	if a.Path != "" {
		return fmt.Sprintf("User %q cannot %s path %q", a.User.Name, a.Verb, a.Path)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", a.User.Name, a.Verb, resource, a.Group, where)
}
