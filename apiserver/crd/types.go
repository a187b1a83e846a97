// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	metaModel   = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	ownerModel  = "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference"
	entryModel  = "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"
	modelPrefix = "#/components/schemas/"
)

// mergeTypes is the merge schema of all versions of a definition, for server-side apply.
func mergeTypes(d *apiextensionsv1.CustomResourceDefinition) (managedfields.TypeConverter, error) {
	models := metaModels()
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		s := &structural.Structural{Generic: structural.Generic{Type: "object"}, Extensions: structural.Extensions{XPreserveUnknownFields: true}}
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			props := new(apiextensions.JSONSchemaProps)
			if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, props, nil); err != nil {
				return nil, err
			}
			made, err := structural.NewStructural(props)
			if err != nil {
				return nil, fmt.Errorf("schema of version %s: %w", v.Name, err)
			}
			s = made
		}
		model := s.ToKubeOpenAPI()
		if model.Properties == nil {
			model.Properties = map[string]spec.Schema{}
		}
		model.Properties["apiVersion"], model.Properties["kind"] = *spec.StringProperty(), *spec.StringProperty()
		model.Properties["metadata"] = *spec.RefSchema(modelPrefix + metaModel)
		model.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{
			"group": d.Spec.Group, "version": v.Name, "kind": d.Status.AcceptedNames.Kind,
		}})
		models[d.Spec.Group+"."+v.Name+"."+d.Status.AcceptedNames.Kind] = model
	}
	return managedfields.NewTypeConverter(models, d.Spec.PreserveUnknownFields)
}

// metaModels is what merging needs to know of metadata.
func metaModels() map[string]*spec.Schema {
	text, whole, flag := spec.StringProperty(), spec.Int64Property(), spec.BoolProperty()
	texts := spec.MapProperty(spec.StringProperty())
	set := spec.ArrayProperty(spec.StringProperty())
	set.AddExtension("x-kubernetes-list-type", "set")
	owners := spec.ArrayProperty(spec.RefSchema(modelPrefix + ownerModel))
	owners.AddExtension("x-kubernetes-list-type", "map")
	owners.AddExtension("x-kubernetes-list-map-keys", []any{"uid"})
	entries := spec.ArrayProperty(spec.RefSchema(modelPrefix + entryModel))
	entries.AddExtension("x-kubernetes-list-type", "atomic")
	object := func(properties map[string]*spec.Schema) *spec.Schema {
		s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}, Properties: map[string]spec.Schema{}}}
		for name, p := range properties {
			s.Properties[name] = *p
		}
		return s
	}
	owner := object(map[string]*spec.Schema{
		"apiVersion": text, "kind": text, "name": text, "uid": text, "controller": flag, "blockOwnerDeletion": flag,
	})
	owner.AddExtension("x-kubernetes-map-type", "atomic")
	fields := object(nil)
	fields.AddExtension("x-kubernetes-map-type", "atomic")
	return map[string]*spec.Schema{
		ownerModel: owner,
		entryModel: object(map[string]*spec.Schema{
			"manager": text, "operation": text, "apiVersion": text, "time": text, "fieldsType": text, "fieldsV1": fields, "subresource": text,
		}),
		metaModel: object(map[string]*spec.Schema{
			"name": text, "generateName": text, "namespace": text, "selfLink": text, "uid": text, "resourceVersion": text,
			"generation": whole, "creationTimestamp": text, "deletionTimestamp": text, "deletionGracePeriodSeconds": whole,
			"labels": texts, "annotations": texts, "ownerReferences": owners, "finalizers": set, "managedFields": entries,
		}),
	}
}
