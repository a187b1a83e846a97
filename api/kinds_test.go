// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestKindsAreComplete(t *testing.T) {
	seen, stored := map[schema.GroupVersionResource]bool{}, map[string]string{}
	for _, k := range Kinds() {
		name := k.GroupVersionResource()
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
		if k.Singular == "" || k.New == nil {
			t.Errorf("%s lacks a singular name or a constructor", name)
		}
		if k.Virtual || k.Stored != nil {
			continue
		}
		if k.NewList == nil {
			t.Errorf("%s has no list", name)
		}
		if other := stored[k.StoragePath]; other != "" {
			t.Errorf("%s and %s are stored in the same place, %s", name, other, k.StoragePath)
		}
		stored[k.StoragePath] = name.String()
		obj := k.New()
		if k.Default != nil { // of an empty object, twice
			k.Default(obj)
			k.Default(obj)
		}
		if k.PrepareCreate != nil {
			k.PrepareCreate(obj)
		}
		if k.Validate != nil {
			k.Validate(obj)
		}
		for _, c := range k.Columns {
			c.Value(obj, obj.GetCreationTimestamp().Time)
		}
	}
}
