// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package extension

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
)

// Is says whether a condition of a definition is true.
func Is(d *apiextensionsv1.CustomResourceDefinition, condition apiextensionsv1.CustomResourceDefinitionConditionType) bool {
	for _, c := range d.Status.Conditions {
		if c.Type == condition {
			return c.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}

// Kind is the kind of one version of a definition, as far as names and schema go.
func Kind(d *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) *resource.Kind {
	names := d.Status.AcceptedNames
	gvk := schema.GroupVersionKind{Group: d.Spec.Group, Version: v.Name, Kind: names.Kind}
	k := &resource.Kind{
		GroupVersionKind: gvk, Resource: names.Plural, Singular: names.Singular, ShortNames: names.ShortNames, Categories: names.Categories,
		Scope: d.Spec.Scope == apiextensionsv1.NamespaceScoped, StoragePath: d.Spec.Group + "/" + names.Plural,
		DefaultPropagation: metav1.DeletePropagationBackground,
		New: func() resource.Object {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetGroupVersionKind(gvk)
			return u
		},
		Custom: &resource.Custom{ListKind: names.ListKind},
	}
	if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
		k.Custom.Schema = v.Schema.OpenAPIV3Schema
	}
	return k
}

// Kinds are the served kinds of an established definition: first that of the version that is stored, or of the first served
// one, which stands for the objects, then the others.
func Kinds(d *apiextensionsv1.CustomResourceDefinition) []*resource.Kind {
	if !Is(d, apiextensionsv1.Established) {
		return nil
	}
	var out []*resource.Kind
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if !v.Served {
			continue
		}
		out = append(out, Kind(d, v))
		if v.Storage {
			last := len(out) - 1
			out[0], out[last] = out[last], out[0]
		}
	}
	return out
}
