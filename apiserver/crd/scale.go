// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"fmt"
	"math"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// scaleOf is the scale of objects whose replicas are where the definition says.
func scaleOf(s *apiextensionsv1.CustomResourceSubresourceScale) *resource.KindScale {
	spec, status := fieldPath(s.SpecReplicasPath), fieldPath(s.StatusReplicasPath)
	var selector []string
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		selector = fieldPath(*s.LabelSelectorPath)
	}
	return &resource.KindScale{
		Path: s.SpecReplicasPath,
		Get: func(o resource.Object) *autoscalingv1.Scale {
			object := asCustom(o).Object
			want, _, _ := unstructured.NestedInt64(object, spec...)
			have, _, _ := unstructured.NestedInt64(object, status...)
			text := ""
			if selector != nil {
				text, _, _ = unstructured.NestedString(object, selector...)
			}
			return &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{
					Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
					ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
				},
				Spec:   autoscalingv1.ScaleSpec{Replicas: int32(want)},
				Status: autoscalingv1.ScaleStatus{Replicas: int32(have), Selector: text},
			}
		},
		Set: func(o resource.Object, replicas int32) {
			_ = unstructured.SetNestedField(asCustom(o).Object, int64(replicas), spec...) // a parent that is no object is found by validation
		},
		Check: func(o resource.Object) error {
			if _, found, err := unstructured.NestedInt64(asCustom(o).Object, spec...); err != nil || !found {
				if err != nil {
					return err
				}
				return fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath)
			}
			return nil
		},
	}
}

// scaleProblems checks the fields that scale shows.
func scaleProblems(s *apiextensionsv1.CustomResourceSubresourceScale, u *unstructured.Unstructured) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	for _, path := range []string{s.SpecReplicasPath, s.StatusReplicasPath} {
		n, found, err := unstructured.NestedInt64(u.Object, fieldPath(path)...)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(path), n, err.Error()))
		case !found:
		case n < 0:
			errs = append(errs, field.Invalid(field.NewPath(path), n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(field.NewPath(path), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		if v, _, err := unstructured.NestedString(u.Object, fieldPath(*s.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), v, err.Error()))
		}
	}
	return errs
}
