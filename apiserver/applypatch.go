// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/resource"
)

// maxPatchOperations bounds a JSON patch.
const maxPatchOperations = 10000

// jsonPatchOp is one operation of a JSON patch, to check its form.
type jsonPatchOp struct {
	Op    string `json:"op"`
	From  string `json:"from"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// jsonPatched returns the JSON of an object with the request's JSON patch or JSON merge patch, and the unknown and repeated
// fields of the patch itself if the client wants to know.
func (o *operation) jsonPatched(object []byte) (after []byte, strict []error, err error) {
	wanted := o.FieldValidation != metav1.FieldValidationIgnore
	undecodable := func(err error) error {
		// The names of types are those that clients know.
		return apierrors.NewBadRequest("error decoding patch: " + strings.ReplaceAll(err.Error(), "apiserver.jsonPatchOp", "handlers.jsonPatchOp"))
	}
	switch o.PatchType {
	case types.JSONPatchType:
		if wanted {
			var form []jsonPatchOp
			if strict, err = kjson.UnmarshalStrict(o.Patch, &form); err != nil {
				return nil, nil, undecodable(err)
			}
			for i := range strict {
				strict[i] = fmt.Errorf("json patch %w", strict[i])
			}
		}
		operations, err := jsonpatch.DecodePatch(o.Patch)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		if len(operations) > maxPatchOperations {
			return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
				"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
		}
		if after, err = operations.Apply(object); err != nil {
			return nil, nil, unprocessable()
		}
		return after, strict, nil
	case types.MergePatchType:
		if wanted {
			if strict, err = kjson.UnmarshalStrict(o.Patch, &map[string]any{}); err != nil {
				return nil, nil, undecodable(err)
			}
		}
		after, err = jsonpatch.MergePatch(object, o.Patch)
		if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		return after, strict, err
	}
	return nil, nil, unsupportedPatch()
}

// strategicMerge merges the request's patch into old by the rules of obj's type, which gets the outcome.
func (o *operation) strategicMerge(gvk schema.GroupVersionKind, old, obj resource.Object) error {
	wanted := o.FieldValidation != metav1.FieldValidationIgnore
	patch := map[string]any{}
	strict, err := kjson.UnmarshalStrict(o.Patch, &patch)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if !wanted {
		strict = nil
	}
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(old)
	if err != nil {
		return err
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, patch, obj)
	if err != nil {
		return badMerge(err)
	}
	invalid := func(problem error) error { // it shows the patch as the merge left it
		return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), fmt.Sprintf("%+v", patch), problem.Error())})
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, obj, wanted); err != nil {
		problem, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict {
			return invalid(err)
		}
		strict = append(strict, problem.Errors()...)
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if err := readable(o.Kind, obj); err != nil {
		return invalid(err)
	}
	if len(strict) > 0 && o.FieldValidation == metav1.FieldValidationStrict {
		return invalid(runtime.NewStrictDecodingError(strict))
	}
	return o.strict(gvk, strict)
}

// badMerge is the error for a strategic merge patch that cannot be merged.
func badMerge(err error) error {
	for _, form := range []error{
		mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat,
	} {
		if errors.Is(err, form) {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if errors.Is(err, mergepatch.ErrNoListOfLists) {
		return unprocessable()
	}
	return errStatus500(err.Error())
}

// decodeApply decodes the configuration of server-side apply, and finds repeated keys.
func decodeApply(patch []byte) (*unstructured.Unstructured, error, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	exact := func(d *json.Decoder) *json.Decoder {
		d.UseNumber()
		return d
	}
	if err := yaml.Unmarshal(patch, &u.Object, exact); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if err := utiljson.ConvertMapNumbers(u.Object, 0); err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	return u, yaml.UnmarshalStrict(patch, &map[string]any{}), nil
}

// strictApply reports repeated keys of a configuration as the client wants it.
func (o *operation) strictApply(problem error) error {
	if problem == nil || o.FieldValidation == metav1.FieldValidationIgnore {
		return nil
	}
	if o.FieldValidation == metav1.FieldValidationStrict {
		return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", problem))
	}
	text := strings.TrimPrefix(problem.Error(), "error converting YAML to JSON: ")
	lines, isYAML := strings.CutPrefix(text, "yaml: unmarshal errors:\n")
	if !isYAML {
		o.warn(problem.Error())
		return nil
	}
	for line := range strings.SplitSeq(lines, "\n") {
		o.warn(strings.TrimSpace(line))
	}
	return nil
}

func unprocessable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: "the server rejected our request due to an error in our request", Details: &metav1.StatusDetails{},
	}}
}

// badPatch is the error for a patch whose outcome is no object of the kind.
func badPatch(after []byte, problem error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), string(after), problem.Error())})
}
