// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/merge"
	"knarr.dev/apiserver/watchcache"
)

// patch answers PATCH of an object or of its status.
func (r *registry) patch(ctx context.Context, o *operation) (*answer, error) {
	if err := checkPatchOptions(o); err != nil {
		return nil, err
	}
	change := func(old *watchcache.Entry) (resource.Object, error) { return r.patched(o, old.Object) }
	if o.PatchType == types.ApplyYAMLPatchType && o.Subresource == "" {
		return r.apply(ctx, o, change)
	}
	return r.update(ctx, o, change)
}

// apply answers server-side apply of an object, which makes it if there is none.
func (r *registry) apply(ctx context.Context, o *operation, change func(*watchcache.Entry) (resource.Object, error)) (*answer, error) {
	for attempt := 1; ; attempt++ {
		if _, err := r.current(ctx, o.Namespace, o.Name); err == nil {
			a, err := r.update(ctx, o, change)
			if !apierrors.IsNotFound(err) || attempt == updateAttempts {
				return a, err
			}
		} else if !apierrors.IsNotFound(err) {
			return nil, err
		}
		a, err := r.applyNew(ctx, o)
		if !apierrors.IsAlreadyExists(err) || attempt == updateAttempts {
			return a, err
		}
		o.finish()
		o.undo = nil
	}
}

// applyNew makes the object that a configuration describes. Who may patch may not therefore create.
func (r *registry) applyNew(ctx context.Context, o *operation) (*answer, error) {
	obj, err := r.patched(o, r.kind.New())
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" {
		return nil, apierrors.NewConflict(r.kind.GroupResource(), o.Name, fmt.Errorf(
			"uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if version := obj.GetResourceVersion(); version != "" {
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			return nil, errStatus500(err.Error())
		}
	}
	ask := attributes(o.user, o.Request)
	ask.Verb = "create"
	if err := r.server.authorize(ctx, ask); err != nil {
		return nil, err
	}
	o.Object = obj
	return r.createStored(ctx, o)
}

func checkPatchOptions(o *operation) error {
	options := &metav1.PatchOptions{FieldManager: o.FieldManager, FieldValidation: o.FieldValidation}
	if o.Force {
		options.Force = &o.Force
	}
	return validationErrors{"PatchOptions", validation.ValidatePatchOptions(options, o.PatchType)}.err()
}

// statusPatched is a new object: old with a patch of nothing but metadata and status, which copies no more of it. It is nil if the
// patch is of another kind.
func (r *registry) statusPatched(o *operation, old resource.Object) resource.Object {
	status, strategic := r.kind.Status, o.PatchType == types.StrategicMergePatchType
	if o.Subresource != "status" || status.Copy == nil || !strategic && o.PatchType != types.MergePatchType || !merge.Within(o.Patch) {
		return nil
	}
	obj := status.Copy(old)
	if !r.server.patcher.Apply(strategic, r.kind.GroupVersionKind, obj, o.Patch) {
		return nil
	}
	return obj
}

// patched is a new object: old with the request's patch.
func (r *registry) patched(o *operation, old resource.Object) (resource.Object, error) {
	setDefaults := r.kind.Default
	obj := r.statusPatched(o, old)
	if obj != nil {
		setDefaults = r.kind.Status.Default
	} else {
		var err error
		if obj, err = r.changed(o, old); err != nil {
			return nil, err
		}
	}
	if err := r.checkPlace(o, obj); err != nil {
		return nil, err
	}
	if setDefaults != nil {
		setDefaults(obj)
	}
	return obj, nil
}

// changed is a new object: what the patch alone makes of old.
func (r *registry) changed(o *operation, old resource.Object) (resource.Object, error) {
	if o.PatchType == types.ApplyYAMLPatchType {
		return r.merged(o, old)
	}
	if o.PatchType == types.MergePatchType || o.PatchType == types.StrategicMergePatchType {
		obj := old.DeepCopyObject().(resource.Object)
		if r.server.patcher.Apply(o.PatchType == types.StrategicMergePatchType, r.kind.GroupVersionKind, obj, o.Patch) {
			return obj, nil
		}
	}
	obj := r.kind.New()
	return obj, r.patchInto(o, r.kind.GroupVersionKind, old, obj)
}

// merged is a new object: old with the configuration that is applied.
func (r *registry) merged(o *operation, old resource.Object) (resource.Object, error) {
	patch, strict, err := decodeApply(o.Patch)
	if err != nil {
		return nil, err
	}
	m, err := r.server.fields.Of(r.kind, o.Subresource)
	if err != nil {
		return nil, err
	}
	obj, err := m.Apply(old, patch, o.FieldManager, o.Force)
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return nil, err
		}
		return nil, errStatus500(err.Error())
	}
	if err := o.strictApply(strict); err != nil {
		return nil, err
	}
	o.applied, o.owners = true, obj.GetManagedFields()
	return obj, nil
}

// patchInto decodes old with the request's patch into obj, and reports unknown fields as the client wants it.
func (r *registry) patchInto(o *operation, gvk schema.GroupVersionKind, old, obj resource.Object) error {
	if o.PatchType == types.StrategicMergePatchType {
		return o.strategicMerge(gvk, old, obj)
	}
	before, err := codec.EncodeJSON(gvk, old)
	if err != nil {
		return err
	}
	after, strict, err := o.jsonPatched(before)
	if err != nil {
		return err
	}
	_, custom := obj.(*unstructured.Unstructured)
	if d, err := codec.Decode(codec.JSON, after, obj); err == nil && d.Plain && d.Kind == gvk && !custom && r.kind.Readable == nil && len(strict) == 0 {
		return nil
	}
	reflect.ValueOf(obj).Elem().SetZero()
	stated, err := codec.PeekKind(codec.JSON, after)
	if err != nil {
		return badPatch(after, err)
	}
	if custom {
		if err := untyped(stated, after); err != nil {
			return err
		}
	}
	if stated.Kind == "" {
		stated.Kind = gvk.Kind
	}
	if stated.Version == "" {
		if r.kind.Custom == nil {
			return o.unversioned(gvk, after, obj)
		}
		stated.Group, stated.Version = gvk.Group, gvk.Version
	}
	if stated != gvk && !custom { // of custom ones validation finds it
		return badPatch(after, r.server.unconvertible(stated, gvk))
	}
	d, err := codec.Decode(codec.JSON, after, obj)
	if err != nil {
		return badPatch(after, err)
	}
	unknown, err := coerce(r.kind, obj)
	if err != nil {
		return badPatch(after, err)
	}
	if custom && stated.Group != gvk.Group { // of which nothing is known
		unknown = nil
	}
	strict = append(append(strict, d.Strict...), unknown...)
	if len(strict) > 0 && o.FieldValidation == metav1.FieldValidationStrict {
		return badPatch(after, runtime.NewStrictDecodingError(strict))
	}
	return o.strict(gvk, strict)
}

// untyped is the error for a custom object that a patch left without kind or version.
func untyped(stated schema.GroupVersionKind, after []byte) error {
	switch {
	case stated.Kind == "":
		return badPatch(after, runtime.NewMissingKindErr(string(after)))
	case stated.Version != "":
		return nil
	}
	var said struct {
		APIVersion json.RawMessage `json:"apiVersion"`
	}
	if err := json.Unmarshal(after, &said); err == nil && said.APIVersion == nil {
		return apierrors.NewInternalError(runtime.NewMissingVersionErr("object has no apiVersion field"))
	} else if err == nil && string(said.APIVersion) == "null" {
		return badPatch(after, errors.New(".apiVersion accessor error: <nil> is of the type <nil>, expected string"))
	}
	return badPatch(after, runtime.NewMissingVersionErr(string(after)))
}

// unversioned reads an object that a patch left without version: as one of no version, which has none of the fields that are spelt as
// in JSON. The name is among them, so this ends with an error.
func (o *operation) unversioned(gvk schema.GroupVersionKind, after []byte, obj resource.Object) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(after, &fields); err != nil {
		return badPatch(after, err)
	}
	var strict []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if name != "kind" && name != "apiVersion" {
			strict = append(strict, fmt.Errorf("unknown field %q", name))
		}
	}
	if len(strict) > 0 && o.FieldValidation == metav1.FieldValidationStrict {
		return badPatch(after, runtime.NewStrictDecodingError(strict))
	}
	obj.SetName("")
	return o.strict(gvk, strict)
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
		if err := r.ownedScale(ctx, o, old); err != nil {
			return nil, err
		}
		if o.PatchType == types.ApplyYAMLPatchType {
			obj, err := r.merged(o, old)
			if err != nil {
				return nil, err
			}
			return obj.(*autoscalingv1.Scale), nil
		}
		scale := new(autoscalingv1.Scale)
		if err := r.patchInto(o, scaleKind(), old, scale); err != nil {
			return nil, err
		}
		return scale, r.checkPlace(o, scale)
	})
}

// ownedScale gives a scale the owners of its fields, which are those of the object.
func (r *registry) ownedScale(ctx context.Context, o *operation, scale *autoscalingv1.Scale) error {
	cur, err := r.current(ctx, o.Namespace, o.Name)
	if err != nil {
		return err
	}
	translation, err := r.server.fields.NewScale(r.kind, cur.Object.GetManagedFields())
	if err != nil {
		return err
	}
	scale.ManagedFields, err = translation.Entries()
	return err
}
