// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"knarr.dev/api/resource"
)

// Merge returns a new object: obj with what a configuration says, merged as server-side apply merges but without owners. A
// configuration must leave alone what can only be replaced as a whole.
func (f *Fields) Merge(kind *resource.Kind, obj resource.Object, configuration map[string]any) (resource.Object, error) {
	patch := &unstructured.Unstructured{Object: maps.Clone(configuration)}
	patch.SetGroupVersionKind(kind.GroupVersionKind)
	var converter managedfields.TypeConverter = f.types
	if _, custom := obj.(*unstructured.Unstructured); custom {
		converter = managedfields.NewDeducedTypeConverter()
	} else if parser, err := f.types.parser(); err == nil {
		name := f.types.typeName(kind.GroupVersionKind)
		w := &atomics{schema: &parser.Schema}
		w.walk(smd.TypeRef{NamedType: &name}, configuration, "")
		if len(w.found) > 0 {
			return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %s", strings.Join(w.found, ", "))
		}
	}
	before, err := converter.ObjectToTyped(withKind(obj, kind.GroupVersionKind), typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	change, err := converter.ObjectToTyped(patch)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	after, err := before.Merge(change)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	merged, err := converter.TypedToObject(after)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	out, err := structured(merged, kind)
	if err != nil {
		return nil, err
	}
	if _, custom := out.(*unstructured.Unstructured); !custom {
		out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
	return out, nil
}

// atomics finds the parts of a configuration that can only be replaced as a whole.
type atomics struct {
	schema *smd.Schema
	found  []string
}

func (w *atomics) walk(ref smd.TypeRef, value any, at string) {
	atom, ok := w.schema.Resolve(ref)
	if !ok {
		return
	}
	switch v := value.(type) {
	case map[string]any:
		if atom.Map == nil {
			return
		}
		if atom.Map.ElementRelationship == smd.Atomic {
			w.found = append(w.found, at)
			return
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			element := atom.Map.ElementType
			if f, ok := atom.Map.FindField(key); ok {
				element = f.Type
			}
			w.walk(element, v[key], at+"."+key)
		}
	case []any:
		if atom.List == nil {
			return
		}
		if atom.List.ElementRelationship == smd.Atomic {
			w.found = append(w.found, at)
			return
		}
		for i, item := range v {
			w.walk(atom.List.ElementType, item, fmt.Sprintf("%s[%d]", at, i))
		}
	}
}
