// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// ownManager is the field manager of what the server writes by itself, as in Kubernetes.
const ownManager = "kube-apiserver"

// manager is who comes to own what an operation writes.
func (o *operation) manager() string {
	if o.FieldManager == "" && o.user.Name == self().Name {
		return ownManager
	}
	return o.FieldManager
}

// managerFor is the field manager of a component of this process that names none.
func managerFor(user *call.Identity) string {
	name := user.Name
	if node, ok := strings.CutPrefix(name, "system:node:"); ok && node != "" {
		return "kubelet"
	}
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.HasPrefix(name, "system:") {
		name = name[i+1:]
	}
	return name[:min(len(name), metavalidation.FieldManagerMaxLength)]
}

// ownCreate records who set which field of a new object.
func (s *Server) ownCreate(r *registry, o *operation, obj resource.Object) error {
	if o.applied {
		obj.SetManagedFields(o.owners)
		return nil
	}
	m, err := s.fields.Of(r.kind, o.Subresource)
	if err != nil {
		return err
	}
	if err := m.Create(r.kind.New, obj, o.manager()); err != nil {
		s.unowned(r, obj, err)
	}
	return nil
}

// ownUpdate records who changed which field.
func (s *Server) ownUpdate(r *registry, o *operation, obj resource.Object, cur *watchcache.Entry) error {
	live, err := cur.As(r.kind)
	if err != nil {
		return err
	}
	if o.Subresource == "scale" {
		return s.ownScale(r, o, obj, live.Object)
	}
	if o.applied {
		obj.SetManagedFields(o.owners)
		return nil
	}
	m, err := s.fields.Of(r.kind, o.Subresource)
	if err != nil {
		return err
	}
	if err := m.Update(live.Object, obj, o.manager()); err != nil {
		s.unowned(r, obj, err)
	}
	return nil
}

// ownAsked records who asked to change which field through a subresource that a hook serves.
func (r *registry) ownAsked(o *operation, live, asked resource.Object) error {
	m, err := r.server.fields.Of(r.kind, o.Subresource)
	if err != nil {
		return err
	}
	o.applied, o.owners = true, nil
	if err := m.Update(live, asked, o.manager()); err != nil {
		r.server.unowned(r, asked, err)
		return nil
	}
	o.owners = asked.GetManagedFields()
	return nil
}

// ownScale records who changed the replicas of an object through its scale.
func (s *Server) ownScale(r *registry, o *operation, obj, live resource.Object) error {
	translation, err := s.fields.NewScale(r.kind, live.GetManagedFields())
	if err != nil {
		return err
	}
	owners := o.owners
	if !o.applied {
		m, err := s.fields.Of(r.kind, o.Subresource)
		if err != nil {
			return err
		}
		before, after := r.kind.Scale.Get(live), r.kind.Scale.Get(obj)
		if before.ManagedFields, err = translation.Entries(); err == nil {
			err = m.Update(before, after, o.manager())
		}
		if err != nil {
			s.unowned(r, obj, err)
			return nil
		}
		owners = after.ManagedFields
	}
	owners, err = translation.Parent(owners)
	if err != nil {
		s.unowned(r, obj, err)
		return nil
	}
	obj.SetManagedFields(owners)
	return nil
}

// unowned goes on without owners of fields, which only apply needs: a write does not fail for them.
func (s *Server) unowned(r *registry, obj resource.Object, err error) {
	obj.SetManagedFields(nil)
	s.cfg.Log.Warn("field owners not recorded", "kind", r.kind.Kind, "namespace", obj.GetNamespace(), "name", obj.GetName(), "err", err)
}

// noop says whether storing obj instead of old would change nothing but the times in managedFields.
func (r *registry) noop(obj resource.Object, old *watchcache.Entry) bool {
	fresh, before := obj.GetManagedFields(), old.Object.GetManagedFields()
	if !sameOwners(fresh, before) {
		return false
	}
	obj.SetManagedFields(before)
	if r.unchanged(obj, old) {
		return true
	}
	obj.SetManagedFields(fresh)
	return false
}

// stale says whether an object should be written again though nothing changed.
func (r *registry) stale(ctx context.Context, key string) bool {
	if r.server.cfg.Stale == nil {
		return false
	}
	stale, err := r.server.cfg.Stale(ctx, key)
	return err == nil && stale
}

// sameOwners compares managedFields without their times.
func sameOwners(a, b []metav1.ManagedFieldsEntry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i], &b[i]
		if x.Manager != y.Manager || x.Operation != y.Operation || x.APIVersion != y.APIVersion || x.FieldsType != y.FieldsType ||
			x.Subresource != y.Subresource || x.FieldsV1.GetRawString() != y.FieldsV1.GetRawString() {
			return false
		}
	}
	return true
}

func metaUpdateProblems(obj, old resource.Object) field.ErrorList {
	return validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))
}
