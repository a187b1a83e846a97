// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Changed tells whether now, which is as somebody sent it, and old, which was stored, are the same to a comparison that tells empty
// lists from none: some generations count so. What was stored has no empty ones, for its form there does not tell them apart.
func Changed(now, old any) bool {
	return !equality.Semantic.DeepEqual(now, old) || hasEmpty(reflect.ValueOf(now))
}

// hasEmpty finds lists and maps that are there without items.
func hasEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && hasEmpty(v.Elem())
	case reflect.Slice:
		if !v.IsNil() && v.Len() == 0 {
			return true
		}
		for i := range v.Len() {
			if hasEmpty(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		if !v.IsNil() && v.Len() == 0 {
			return true
		}
		for _, key := range v.MapKeys() {
			if hasEmpty(v.MapIndex(key)) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if hasEmpty(v.Field(i)) {
				return true
			}
		}
	}
	return false
}
