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
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/resource"
)

// maxPatchOperations bounds a JSON patch.
const maxPatchOperations = 10000

// applyPatch returns the JSON of an object with a patch. shape is an object of its type.
func applyPatch(kind types.PatchType, object, patch []byte, shape resource.Object) ([]byte, error) {
	switch kind {
	case types.JSONPatchType:
		operations, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if len(operations) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
				"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
		}
		out, err := operations.Apply(object)
		if err != nil {
			return nil, unprocessable()
		}
		return out, nil
	case types.MergePatchType:
		if !json.Valid(patch) {
			var v any
			return nil, apierrors.NewBadRequest("error decoding patch: " + json.Unmarshal(patch, &v).Error())
		}
		out, err := jsonpatch.MergePatch(object, patch)
		if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, err
	case types.StrategicMergePatchType:
		out, err := strategicpatch.StrategicMergePatch(object, patch, shape)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return out, nil
	}
	return nil, unsupportedPatch()
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
func badPatch(kind types.PatchType, patch, after []byte, problem error) error {
	value := string(after)
	if kind == types.StrategicMergePatchType {
		var asMap map[string]any
		if json.Unmarshal(patch, &asMap) == nil {
			value = fmt.Sprintf("%+v", asMap)
		}
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, problem.Error())})
}
