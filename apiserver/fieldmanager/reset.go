// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/api/resource"
)

// resets are the fields that a write to the resource or subresource of a kind does not change, whatever it asks for, and
// does not come to own: status for writes of the object itself, spec for writes of its status.
func resets(kind *resource.Kind, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	var filter fieldpath.Filter
	switch {
	case subresource == "" && kind.Status != nil:
		filter = without("status")
	case subresource == "status":
		filter = without(statusResets(kind)...)
	default:
		return nil
	}
	out := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(kind.GroupVersion().String()): filter}
	if kind.Stored != nil {
		out[fieldpath.APIVersion(kind.Stored.Hub.GroupVersion().String())] = filter
	}
	return out
}

// statusResets names what else than spec a write of status does not change.
func statusResets(kind *resource.Kind) []any {
	switch kind.GroupKind().String() {
	case "Deployment.apps":
		return []any{"spec", []string{"metadata", "labels"}}
	case "Pod":
		return []any{"spec", []string{"metadata", "deletionTimestamp"}, []string{"metadata", "ownerReferences"}}
	}
	return []any{"spec"}
}

// without is the filter that leaves out fields: each is a name or a path of names.
func without(fields ...any) fieldpath.Filter {
	set := fieldpath.NewSet()
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			set.Insert(fieldpath.MakePathOrDie(f))
		case []string:
			var path fieldpath.Path
			for _, name := range f {
				path = append(path, fieldpath.PathElement{FieldName: &name})
			}
			set.Insert(path)
		}
	}
	return fieldpath.NewExcludeSetFilter(set)
}
