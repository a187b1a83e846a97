// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// updateAttempts bounds the retries of one unconditional update.
const updateAttempts = 100

// put answers PUT of an object or of its status.
func (r *registry) put(ctx context.Context, o *operation) (*answer, error) {
	body := o.Object
	if err := r.checkPlace(o, body); err != nil {
		return nil, err
	}
	if r.kind.Default != nil {
		r.kind.Default(body)
	}
	once := body.GetResourceVersion() != "" && body.GetResourceVersion() != "0"
	return r.update(ctx, o, func(*watchcache.Entry) (resource.Object, error) {
		if once || o.Renew != nil { // the update of one revision is not tried again
			return o.Object, nil
		}
		return body.DeepCopyObject().(resource.Object), nil
	})
}

// update reads an object, lets change make its new state (in the served form) from the stored one, and writes that if nobody else
// wrote meanwhile; else it starts again, unless the new state names the revision that it is meant for.
func (r *registry) update(ctx context.Context, o *operation, change func(old *watchcache.Entry) (resource.Object, error)) (*answer, error) {
	ctx, span := r.storing(ctx, "GuaranteedUpdate etcd3", o)
	defer span.End()
	cur, err := r.current(ctx, o.Namespace, o.Name)
	for attempt := 0; attempt < updateAttempts; attempt++ {
		if apierrors.IsNotFound(err) && o.Verb == "update" && r.createdByUpdate(o.Subresource) {
			if uid := o.Object.GetUID(); uid != "" {
				return nil, r.otherUID(o, r.key(o.Namespace, o.Name), uid, "")
			}
			o.Object.SetResourceVersion("")
			return r.createStored(ctx, o)
		}
		if err != nil {
			return nil, err
		}
		mark := len(o.warnings)
		var a *answer
		var again bool
		tried := cur.Revision
		a, cur, again, err = r.updateOnce(ctx, o, cur, change)
		if !again && err != nil && r.server.cfg.Shared && attempt == 0 { // it may be about a state that another server has replaced
			if newer, problem := r.fresh(ctx, o.Namespace, o.Name); problem != nil || newer.Revision != tried {
				cur, err, again = newer, problem, true
			}
		}
		if !again {
			return a, err
		}
		o.warnings = o.warnings[:mark]
		o.finish()
		o.undo = nil
		if err := r.renew(o); err != nil {
			return nil, err
		}
	}
	return nil, r.conflict(o.Name)
}

// createdByUpdate tells whether PUT of an absent object creates it. That of a Service's status does in Kubernetes too, without
// addresses.
func (r *registry) createdByUpdate(subresource string) bool {
	return r.hub.CreateOnUpdate && subresource == "" || r.hub == core.Services.Kind && subresource == "status"
}

// renew makes the body of an update anew, which an attempt has changed.
func (r *registry) renew(o *operation) error {
	if o.Renew == nil {
		return nil
	}
	body, err := o.Renew()
	if err != nil {
		return err
	}
	if err := r.checkPlace(o, body); err != nil {
		return err
	}
	if r.kind.Default != nil {
		r.kind.Default(body)
	}
	o.Object = body
	return nil
}

// updateOnce tries once; when again is set it returns the state to try with, or why there is none.
func (r *registry) updateOnce(ctx context.Context, o *operation, cur *watchcache.Entry, change func(*watchcache.Entry) (resource.Object, error)) (a *answer, next *watchcache.Entry, again bool, err error) {
	served, err := cur.As(r.kind)
	if err != nil {
		return nil, nil, false, err
	}
	obj, err := change(served)
	if err != nil {
		return nil, nil, false, err
	}
	unconditional, err := r.checkRevision(o, obj, cur)
	if err != nil {
		return nil, nil, false, err
	}
	hub, err := r.prepareUpdate(ctx, o, obj, cur)
	if err != nil {
		return nil, nil, false, err
	}
	result := hub // in the form that was asked for
	if hub, err = r.stored(hub); err != nil {
		return nil, nil, false, err
	}
	key := cur.Key
	gone := hub.GetDeletionTimestamp() != nil && len(hub.GetFinalizers()) == 0 && !held(hub) &&
		(hub.GetDeletionGracePeriodSeconds() == nil || *hub.GetDeletionGracePeriodSeconds() == 0)
	switch {
	case gone && !o.DryRun:
		last := shallow(cur.Object) // watchers see the state that was stored
		_, rec, err := r.remove(ctx, key, last, cur.Revision)
		if errors.Is(err, store.ErrConflict) {
			next, again, err = r.retry(o, rec, unconditional)
			return nil, next, again, err
		}
		if err != nil {
			return nil, nil, false, err
		}
		o.done = true
		e, err := r.dry(key, result, cur.Revision).As(r.kind) // the answer is what was asked for, not the deletion
		return &answer{entry: e}, nil, false, err
	case r.noop(hub, cur) && (o.DryRun || !r.stale(ctx, key)):
		return &answer{entry: served}, nil, false, nil
	case o.DryRun:
		e, err := r.dry(key, result, cur.Revision).As(r.kind)
		return &answer{entry: e}, nil, false, err
	}
	e, rec, err := r.write(ctx, key, hub, cur.Revision)
	if errors.Is(err, store.ErrConflict) {
		next, again, err = r.retry(o, rec, unconditional)
		return nil, next, again, err
	}
	if err != nil {
		return nil, nil, false, err
	}
	o.done = true
	e, err = e.As(r.kind)
	return &answer{entry: e, stored: rec.Value}, nil, false, err
}

// retry turns the record that stood in the way into the state to try with next.
func (r *registry) retry(o *operation, rec store.Record, unconditional bool) (*watchcache.Entry, bool, error) {
	if !unconditional {
		return nil, false, r.conflict(o.Name)
	}
	if rec.Key == "" || rec.Modified == 0 {
		return nil, true, apierrors.NewNotFound(r.kind.GroupResource(), o.Name)
	}
	e, err := r.cache.Decode(&rec)
	return e, err == nil, err
}

// checkRevision compares uid and resourceVersion of an update with the stored object.
func (r *registry) checkRevision(o *operation, obj resource.Object, cur *watchcache.Entry) (unconditional bool, err error) {
	if uid := obj.GetUID(); uid != "" && uid != cur.Object.GetUID() && o.Verb != "patch" { // of a patch, validation says so
		return false, r.otherUID(o, cur.Key, uid, cur.Object.GetUID())
	}
	version := obj.GetResourceVersion()
	if version == "" || version == "0" {
		if r.rules().NeedsRevision && !(r.kind.Custom != nil && o.Subresource == "scale") {
			named := schema.GroupKind{Group: r.hub.Group, Kind: r.hub.Resource}
			return false, apierrors.NewInvalid(named, o.Name, field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update")})
		}
		return true, nil
	}
	revision, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return false, errStatus500(err.Error())
	}
	if int64(revision) != cur.Revision {
		return false, r.conflict(o.Name)
	}
	return o.Verb == "patch" && version == cur.Object.GetResourceVersion(), nil
}

// prepareUpdate brings the new state of an object through managed fields, admission, preparation and validation, and returns its hub
// form, ready to be stored.
func (r *registry) prepareUpdate(ctx context.Context, o *operation, obj resource.Object, cur *watchcache.Entry) (resource.Object, error) {
	old := cur.Object
	if r.kind.Custom != nil {
		served, err := cur.As(r.kind)
		if err != nil {
			return nil, err
		}
		old = served.Object
	}
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	if uid == "" {
		obj.SetUID(old.GetUID())
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if err := r.server.ownUpdate(r, o, obj, cur); err != nil {
		return nil, err
	}
	obj.SetUID(uid)
	obj.SetResourceVersion(version)
	when := ""
	if o.Verb == "patch" { // then they have not been looked at before
		when = " after mutating admission happens"
	}
	warnings := ownerWarnings(obj, when)
	hub, err := r.toHub(obj)
	if err != nil {
		return nil, err
	}
	a := r.admitted(o, "update", hub, old)
	if err := r.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	if hub = a.Object; hub.GetUID() == "" {
		hub.SetUID(old.GetUID())
	}
	hub.SetResourceVersion(old.GetResourceVersion())
	if o.Subresource == "" || o.Subresource == "status" {
		hub.SetGeneration(old.GetGeneration())
	}
	hub.SetCreationTimestamp(old.GetCreationTimestamp())
	keepDeletion(hub, old)
	if o.Subresource == "status" {
		asked := objectMeta(hub)
		r.rules().Status.Prepare(hub, old)
		if r.kind.Custom == nil { // which sees to metadata itself
			statusMeta(r.hub, hub, old, &asked)
		}
		hub.SetResourceVersion(old.GetResourceVersion())
	} else if (o.Subresource == "" || o.Subresource == "scale") && r.rules().PrepareUpdate != nil {
		r.rules().PrepareUpdate(hub, old)
	}
	a.Object = hub
	if h := r.hook(o.Subresource); (o.Subresource == "" || o.Subresource == "status") && h != nil && h.BeforeUpdate != nil {
		if err := h.BeforeUpdate(ctx, a); err != nil {
			return nil, err
		}
	}
	switch {
	case o.Subresource != "status":
		warnings = append(warnings, r.updateWarnings(hub, obj, old)...)
	case r.rules().Status.Warnings != nil:
		warnings = append(warnings, r.rules().Status.Warnings(hub)...)
	}
	if errs := r.updateProblems(o, hub, old); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.named(hub), o.Name, errs)
	}
	if err := r.server.validate(ctx, a); err != nil {
		return nil, err
	}
	o.warnings = append(o.warnings, warnings...)
	if r.kind.Stored != nil { // whose own defaults say less
		r.redefault(hub)
	}
	return hub, nil
}

// otherUID is the error for an update of an object that was deleted and perhaps made anew.
func (r *registry) otherUID(o *operation, key string, asked, have types.UID) error {
	if o.DryRun {
		key = strings.TrimPrefix(key, "/registry")
	}
	return apierrors.NewConflict(r.kind.GroupResource(), o.Name, fmt.Errorf(
		"StorageError: invalid object, Code: 4, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: %s, UID in object meta: %s",
		key, asked, have))
}

// keepDeletion makes sure that an update does not take back a deletion. That it does not begin one either is the matter of
// validation.
func keepDeletion(obj, old resource.Object) {
	if at := old.GetDeletionTimestamp(); at != nil {
		obj.SetDeletionTimestamp(at)
	}
	if grace := old.GetDeletionGracePeriodSeconds(); grace != nil && obj.GetDeletionGracePeriodSeconds() == nil {
		obj.SetDeletionGracePeriodSeconds(grace)
	}
}

// updateWarnings are those of the kind; obj is the served form of hub.
func (r *registry) updateWarnings(hub, obj, old resource.Object) []string {
	switch {
	case r.hub.WarningsUpdate != nil:
		return r.hub.WarningsUpdate(hub, old)
	case r.kind.Warnings != nil:
		return r.kind.Warnings(obj)
	}
	return nil
}

// named is what errors about an object call its kind: a custom object says it itself, even if that is the problem.
func (r *registry) named(obj resource.Object) schema.GroupKind {
	if r.kind.Custom != nil {
		return obj.GetObjectKind().GroupVersionKind().GroupKind()
	}
	return r.hub.GroupVersionKind.GroupKind()
}

func (r *registry) updateProblems(o *operation, obj, old resource.Object) field.ErrorList {
	if o.Subresource == "status" {
		errs, whole := metaProblems(r.rules(), obj, old, true)
		errs = append(errs, whole...)
		if validate := r.rules().Status.Validate; validate != nil {
			errs = append(errs, validate(obj, old)...)
		}
		return errs
	}
	if o.Subresource != "" && o.Subresource != "scale" {
		return r.looseProblems(obj, old)
	}
	return r.problems(obj, old)
}

// looseProblems are the problems of an object that the server itself or a subresource changed: fields that are
// immutable in updates of the main resource may change.
func (r *registry) looseProblems(obj, old resource.Object) field.ErrorList {
	errs := metaUpdateProblems(obj, old)
	if r.hub.Validate != nil {
		errs = append(errs, r.hub.Validate(obj)...)
	}
	return errs
}
