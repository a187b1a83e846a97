// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/api/resource"
)

// resets are the fields, as paths of names, that a write to the resource or subresource of a kind does not change,
// whatever it asks for, and does not come to own: status for writes of the object itself, spec for writes of its status.
func resets(kind *resource.Kind, subresource string) [][]string {
	switch {
	case kind.Kind == "CertificateSigningRequest" && kind.Group == "certificates.k8s.io":
		return map[string][][]string{
			"": {{"spec"}, {"status"}}, "status": {{"spec"}, {"status", "conditions"}}, "approval": {{"spec"}, {"status", "certificate"}},
		}[subresource]
	case kind.GroupKind().String() == "Namespace" && subresource == "finalize":
		return [][]string{{"status"}}
	case subresource == "" && kind.Status != nil:
		return [][]string{{"status"}}
	case subresource != "status":
		return nil
	}
	if kind.Custom != nil {
		return [][]string{{"spec"}, {"metadata"}}
	}
	switch kind.GroupKind().String() {
	case "Deployment.apps":
		return [][]string{{"spec"}, {"metadata", "labels"}}
	case "Pod":
		return [][]string{{"spec"}, {"metadata", "deletionTimestamp"}, {"metadata", "ownerReferences"}}
	}
	return [][]string{{"spec"}}
}

// filters are resets in the form of the library, for each version that managers may have used.
func filters(kind *resource.Kind, paths [][]string) map[fieldpath.APIVersion]fieldpath.Filter {
	if len(paths) == 0 {
		return nil
	}
	set := fieldpath.NewSet()
	for _, names := range paths {
		var path fieldpath.Path
		for _, name := range names {
			path = append(path, fieldpath.PathElement{FieldName: &name})
		}
		set.Insert(path)
	}
	filter := fieldpath.NewExcludeSetFilter(set)
	out := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(kind.GroupVersion().String()): filter}
	out[fieldpath.APIVersion(hub(kind).GroupVersion().String())] = filter
	return out
}
