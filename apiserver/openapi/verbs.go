// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"knarr.dev/api/resource"
)

// verbsOf are the verbs of a kind, as discovery tells them.
func verbsOf(k *resource.Kind) []string {
	var verbs []string
	switch {
	case k.Verbs != nil:
		verbs = slices.Clone(k.Verbs)
	case k.Virtual:
		return []string{"create"}
	default:
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	if k.Group == "" && k.Resource == "namespaces" {
		verbs = slices.DeleteFunc(verbs, func(v string) bool { return v == "deletecollection" })
	}
	return verbs
}

func subresourcesOf(k *resource.Kind) []resource.Subresource {
	out := slices.Clone(k.Others)
	objectVerbs := []string{"get", "patch", "update"}
	if k.Status != nil {
		out = append(out, resource.Subresource{Name: "status", Kind: k.GroupVersionKind, Verbs: objectVerbs})
	}
	if k.Scale != nil {
		out = append(out, resource.Subresource{Name: "scale", Kind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Verbs: objectVerbs})
	}
	return out
}
