// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

func scaleKind() schema.GroupVersionKind { return autoscalingv1.SchemeGroupVersion.WithKind("Scale") }

// subresource answers requests for scale and for what hooks serve.
func (r *registry) subresource(ctx context.Context, o *operation) (*answer, error) {
	if o.Subresource == "scale" && r.kind.Scale != nil {
		return r.scale(ctx, o)
	}
	h := r.hook(o.Subresource)
	if h == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: r.kind.Group, Resource: r.kind.Resource + "/" + o.Subresource}, o.Name)
	}
	switch {
	case o.Verb == "create" && h.Create != nil:
		return r.createSub(ctx, o)
	case o.Verb == "get" && h.Update != nil:
		return r.get(ctx, o)
	case o.Verb == "update" && h.Update != nil:
		body := o.Object
		if err := r.checkPlace(o, body); err != nil {
			return nil, err
		}
		if r.kind.Default != nil && r.subKind(o.Subresource) == r.kind.GroupVersionKind {
			r.kind.Default(body)
		}
		return r.updateSub(ctx, o, func(*watchcache.Entry) (resource.Object, error) { return body, nil })
	case o.Verb == "patch" && h.Update != nil:
		return r.patchSub(ctx, o)
	}
	return nil, apierrors.NewMethodNotSupported(r.kind.GroupResource(), o.Verb)
}

func (r *registry) createSub(ctx context.Context, o *operation) (*answer, error) {
	h := r.hook(o.Subresource)
	switch o.Object.GetNamespace() {
	case o.Namespace:
	case "":
		o.Object.SetNamespace(o.Namespace)
	default:
		return nil, apierrors.NewBadRequest(otherNamespace)
	}
	if request, ok := o.Object.(*authenticationv1.TokenRequest); ok {
		if err := r.ownToken(o, request); err != nil {
			return nil, err
		}
	}
	a := r.admitted(o, "create", o.Object, nil)
	if err := r.server.mutate(ctx, a); err != nil {
		return nil, err
	}
	o.Object = a.Object
	if err := r.server.validate(ctx, a); err != nil {
		return nil, err
	}
	made, err := h.Create(ctx, o.user, o.Request)
	if err != nil {
		return nil, err
	}
	o.done = true
	if made == nil {
		return &answer{created: true}, nil
	}
	return &answer{object: made, gvk: r.subKind(o.Subresource), created: true}, nil
}

// ownToken fills in the defaults of a token request and records who asks for what.
func (r *registry) ownToken(o *operation, request *authenticationv1.TokenRequest) error {
	if request.Spec.ExpirationSeconds == nil {
		request.Spec.ExpirationSeconds = new(int64)
		*request.Spec.ExpirationSeconds = int64(time.Hour / time.Second)
	}
	m, err := r.server.fields.Of(r.kind, o.Subresource)
	if err != nil {
		return err
	}
	if err := m.Create(func() resource.Object { return new(authenticationv1.TokenRequest) }, request, o.manager()); err != nil {
		r.server.unowned(r, request, err)
	}
	return nil
}

// subKind is the kind of the bodies of a subresource.
func (r *registry) subKind(name string) schema.GroupVersionKind {
	if name == "scale" {
		return scaleKind()
	}
	switch name {
	case "binding":
		return schema.GroupVersionKind{Version: "v1", Kind: "Binding"}
	case "eviction":
		return schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}
	case "token":
		return schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}
	}
	for _, sub := range r.kind.Others {
		if sub.Name == name {
			return sub.Kind
		}
	}
	return r.kind.GroupVersionKind
}

// updateSub lets the hook copy what may change from the body, which body makes of the stored state.
func (r *registry) updateSub(ctx context.Context, o *operation, body func(*watchcache.Entry) (resource.Object, error)) (*answer, error) {
	h := r.hook(o.Subresource)
	return r.update(ctx, o, func(old *watchcache.Entry) (resource.Object, error) {
		obj, err := body(old)
		if err != nil {
			return nil, err
		}
		if o.PatchType != types.ApplyYAMLPatchType { // who asks for a field owns it, even if the subresource has no part in it
			if err := r.ownAsked(o, old.Object, obj); err != nil {
				return nil, err
			}
		}
		stored := old.Object.DeepCopyObject().(resource.Object)
		if err := h.Update(ctx, obj, stored); err != nil {
			return nil, err
		}
		stored.SetResourceVersion(obj.GetResourceVersion())
		if obj.GetUID() != "" {
			stored.SetUID(obj.GetUID())
		}
		return stored, nil
	})
}

// modify changes one object in a loop of read, change, compare-and-write. Neither admission nor validation
// runs.
func (r *registry) modify(ctx context.Context, o *operation, change func(resource.Object) error) (*watchcache.Entry, error) {
	cur, err := r.current(ctx, o.Namespace, o.Name)
	for attempt := 0; attempt < updateAttempts; attempt++ {
		if err != nil {
			return nil, err
		}
		obj := cur.Object.DeepCopyObject().(resource.Object)
		if err := change(obj); err != nil {
			return nil, err
		}
		if o.DryRun {
			return r.dry(cur.Key, obj, cur.Revision), nil
		}
		if r.unchanged(obj, cur) {
			return cur, nil
		}
		var e *watchcache.Entry
		var rec store.Record
		if e, rec, err = r.write(ctx, cur.Key, obj, cur.Revision); err == nil {
			o.done = true
			return e, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
		cur, _, err = r.retry(o, rec, true)
	}
	return nil, r.conflict(o.Name)
}

// scale answers get, update and patch of the scale subresource.
func (r *registry) scale(ctx context.Context, o *operation) (*answer, error) {
	switch o.Verb {
	case "get":
		e, err := r.read(ctx, o)
		if err != nil {
			return nil, err
		}
		return r.scaleOf(e)
	case "update":
		body, ok := o.Object.(*autoscalingv1.Scale)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("wrong object passed to Scale update: %T", o.Object))
		}
		if err := r.checkPlace(o, body); err != nil {
			return nil, err
		}
		return r.updateScale(ctx, o, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return body, nil })
	case "patch":
		return r.patchScale(ctx, o)
	}
	return nil, apierrors.NewMethodNotSupported(r.kind.GroupResource(), o.Verb)
}

func (r *registry) scaleOf(e *watchcache.Entry) (*answer, error) {
	f, err := e.As(r.kind)
	if err != nil {
		return nil, err
	}
	if check := r.kind.Scale.Check; check != nil {
		if err := check(f.Object); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	return &answer{object: r.kind.Scale.Get(f.Object), gvk: scaleKind()}, nil
}

// updateScale writes the replicas of the scale that change makes of the current one.
func (r *registry) updateScale(ctx context.Context, o *operation, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (*answer, error) {
	a, err := r.update(ctx, o, func(old *watchcache.Entry) (resource.Object, error) {
		obj := old.Object.DeepCopyObject().(resource.Object)
		scale, err := change(r.kind.Scale.Get(old.Object))
		if err != nil {
			return nil, err
		}
		if r.kind.Custom == nil { // which has rules of its own
			if errs := scaleProblems(r.kind, scale); len(errs) > 0 {
				return nil, apierrors.NewInvalid(scaleKind().GroupKind(), scale.Name, errs)
			}
			if uid := old.Object.GetUID(); scale.UID != "" && scale.UID != uid && o.Verb == "patch" {
				named := r.kind.GroupResource()
				named.Resource += "/scale"
				text := fmt.Sprintf("Precondition failed: UID in precondition: %s, UID in object meta: %s", scale.UID, uid)
				return nil, apierrors.NewConflict(named, o.Name, errors.New(text))
			} else if scale.UID != "" && scale.UID != uid {
				return nil, r.otherUID(o, old.Key, scale.UID, uid)
			}
		}
		r.kind.Scale.Set(obj, scale.Spec.Replicas)
		obj.SetResourceVersion(scale.ResourceVersion)
		return obj, nil
	})
	if err != nil {
		return nil, err
	}
	return r.scaleOf(a.entry)
}

func scaleProblems(k *resource.Kind, s *autoscalingv1.Scale) field.ErrorList {
	meta, at := s.ObjectMeta, field.NewPath("metadata")
	meta.ManagedFields = nil // they are not the scale's to write
	errs := append(validation.ValidateObjectMeta(&meta, true, validation.NameIsDNSSubdomain, at), finalizerProblems(k, s, at)...)
	if s.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "replicas"), s.Spec.Replicas, "must be greater than or equal to 0"))
	}
	return errs
}
