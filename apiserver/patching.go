// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// patch answers PATCH of an object or of its status.
func (r *registry) patch(ctx context.Context, o *operation) (*answer, error) {
	if err := checkPatchOptions(o); err != nil {
		return nil, err
	}
	return r.update(ctx, o, func(old *watchcache.Entry) (resource.Object, error) {
		return r.patched(o, old.Object)
	})
}

func checkPatchOptions(o *operation) error {
	options := &metav1.PatchOptions{FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	if o.Force {
		options.Force = &o.Force
	}
	return validationErrors{"PatchOptions", validation.ValidatePatchOptions(options, o.PatchType)}.err()
}

// patched is a new object: old with the request's patch.
func (r *registry) patched(o *operation, old resource.Object) (resource.Object, error) {
	obj := r.kind.New()
	if err := r.patchInto(o, r.kind.GroupVersionKind, old, obj); err != nil {
		return nil, err
	}
	if obj.GetName() != o.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), o.Name))
	}
	if err := r.checkPlace(o, obj); err != nil {
		return nil, err
	}
	if r.kind.Default != nil {
		r.kind.Default(obj)
	}
	return obj, nil
}

// patchInto decodes old with the request's patch into obj, and reports unknown fields as the client wants it.
func (r *registry) patchInto(o *operation, gvk schema.GroupVersionKind, old, obj resource.Object) error {
	before, err := codec.EncodeJSON(gvk, old)
	if err != nil {
		return err
	}
	after, err := applyPatch(o.PatchType, before, o.Patch, obj)
	if err != nil {
		return err
	}
	stated, err := codec.PeekKind(codec.JSON, after)
	if err != nil {
		return badPatch(o.PatchType, o.Patch, after, err)
	}
	if stated != gvk {
		return badPatch(o.PatchType, o.Patch, after, fmt.Errorf("no kind %q is registered for version %q in scheme \"pkg/runtime/scheme.go:111\"", stated.Kind, stated.GroupVersion()))
	}
	d, err := codec.Decode(codec.JSON, after, obj)
	if err != nil {
		return badPatch(o.PatchType, o.Patch, after, err)
	}
	if len(d.Strict) > 0 && o.FieldValidation == metav1.FieldValidationStrict {
		return badPatch(o.PatchType, o.Patch, after, runtime.NewStrictDecodingError(d.Strict))
	}
	return o.strict(gvk, d.Strict)
}

// patchSub answers PATCH of a subresource that a hook serves.
func (r *registry) patchSub(ctx context.Context, o *operation) (*answer, error) {
	if err := checkPatchOptions(o); err != nil {
		return nil, err
	}
	return r.updateSub(ctx, o, func(old *watchcache.Entry) (resource.Object, error) { return r.patched(o, old.Object) })
}

// patchScale answers PATCH of scale.
func (r *registry) patchScale(ctx context.Context, o *operation) (*answer, error) {
	if err := checkPatchOptions(o); err != nil {
		return nil, err
	}
	return r.updateScale(ctx, o, func(old *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		scale := new(autoscalingv1.Scale)
		return scale, r.patchInto(o, scaleKind(), old, scale)
	})
}
