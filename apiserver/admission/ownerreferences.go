// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authz"
)

// ownerReferences lets only those change an object's owners who may delete it, and only those block the deletion of an owner who may
// change its finalizers.
func ownerReferences(reader Reader, authorizer authz.Authorizer) Step {
	return Step{Name: "OwnerReferencesPermissionEnforcement", Validate: func(ctx context.Context, r *Request) error {
		if r.Object == nil || r.Verb != "create" && r.Verb != "update" {
			return nil
		}
		var was []metav1.OwnerReference
		if r.Old != nil {
			was = r.Old.GetOwnerReferences()
		}
		now := r.Object.GetOwnerReferences()
		if equality.Semantic.DeepEqual(now, was) {
			return nil
		}
		if r.Verb == "update" {
			q := &authz.Attributes{
				User: r.User, Verb: "delete", Group: r.Kind.Group, Version: r.Kind.Version, Resource: r.Kind.Resource, Namespace: r.Namespace, Name: r.Name,
			}
			if allowed, reason, err := authorizer.Authorize(ctx, q); !allowed {
				return forbidden(r, fmt.Sprintf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err))
			}
		}
		for _, ref := range blocking(now, was) {
			if err := mayBlock(ctx, reader, authorizer, r, ref); err != nil {
				return err
			}
		}
		return nil
	}}
}

// blocking are the references that block the deletion of their owner and did not before.
func blocking(now, was []metav1.OwnerReference) (added []metav1.OwnerReference) {
	before := map[types.UID]bool{}
	for _, ref := range was {
		before[ref.UID] = ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	}
	for _, ref := range now {
		if ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion && !before[ref.UID] {
			added = append(added, ref)
		}
	}
	return added
}

func mayBlock(ctx context.Context, reader Reader, authorizer authz.Authorizer, r *Request, ref metav1.OwnerReference) error {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	schemas, ok := reader.(Schema)
	if !ok {
		return nil
	}
	kind := schemas.KindOf(gvk)
	if kind == nil {
		missing := &apimeta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
		return forbidden(r, fmt.Sprintf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %v Kind %v: %v", ref.APIVersion, ref.Kind, missing))
	}
	q := &authz.Attributes{
		User: r.User, Verb: "update", Group: kind.Group, Version: kind.Version, Resource: kind.Resource, Subresource: "finalizers", Name: ref.Name,
	}
	if kind.Scope == resource.Namespaced {
		q.Namespace = r.Namespace
	}
	if allowed, reason, err := authorizer.Authorize(ctx, q); !allowed {
		return forbidden(r, fmt.Sprintf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err))
	}
	return nil
}
