// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package extension

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"knarr.dev/api/resource"
)

// CustomResourceDefinitions add kinds to the API.
var CustomResourceDefinitions = resource.WithStorage(resource.WithList(resource.Define(resource.Definition[apiextensionsv1.CustomResourceDefinition]{
	Group: apiextensionsv1.GroupName, Version: "v1", Kind: "CustomResourceDefinition", Resource: "customresourcedefinitions",
	ShortNames:    []string{"crd", "crds"},
	Categories:    []string{"api-extensions"},
	NeedsRevision: true,
	NameOf: func(d *apiextensionsv1.CustomResourceDefinition) func(string, bool) []string {
		return func(name string, prefix bool) []string {
			problems := apivalidation.NameIsDNSSubdomain(name, prefix)
			if name != d.Spec.Names.Plural+"."+d.Spec.Group {
				problems = append(problems, `must be spec.names.plural+"."+spec.group`)
			}
			return problems
		}
	},
	Default:        apiextensionsv1.SetObjectDefaults_CustomResourceDefinition,
	PrepareCreate:  prepareDefinition,
	PrepareUpdate:  prepareDefinitionUpdate,
	ValidateCreate: validateDefinition,
	ValidateUpdate: validateDefinitionUpdate,
	Warnings:       unknownFormats,
	Columns: []resource.Column[apiextensionsv1.CustomResourceDefinition]{
		{Name: "Created At", Type: "date", Description: createdAt, Value: func(d *apiextensionsv1.CustomResourceDefinition, _ time.Time) any {
			return d.CreationTimestamp.UTC().Format(time.RFC3339)
		}},
	},
	Subresources: resource.Subresources[apiextensionsv1.CustomResourceDefinition]{
		Status: &resource.Status[apiextensionsv1.CustomResourceDefinition]{
			Prepare: func(obj, old *apiextensionsv1.CustomResourceDefinition) {
				status := obj.Status
				*obj = *old.DeepCopy()
				obj.Status = status
			},
			Validate: func(obj, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
				internal, err := Internal(obj)
				if err != nil {
					return field.ErrorList{field.InternalError(nil, err)}
				}
				return validation.ValidateCustomResourceDefinitionStatus(&internal.Status, field.NewPath("status"))
			},
		},
	},
}), func() runtime.Object { return new(apiextensionsv1.CustomResourceDefinitionList) }), definitionStorage())

const createdAt = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"

func prepareDefinition(d *apiextensionsv1.CustomResourceDefinition) {
	d.Status, d.Generation = apiextensionsv1.CustomResourceDefinitionStatus{}, 1
	for _, v := range d.Spec.Versions {
		if v.Storage && !slices.Contains(d.Status.StoredVersions, v.Name) {
			d.Status.StoredVersions = append(d.Status.StoredVersions, v.Name)
		}
	}
}

func prepareDefinitionUpdate(d, old *apiextensionsv1.CustomResourceDefinition) {
	d.Status, d.Generation = *old.Status.DeepCopy(), old.Generation
	if !equality.Semantic.DeepEqual(d.Spec, old.Spec) {
		d.Generation++
	}
	for _, v := range d.Spec.Versions {
		if v.Storage && !slices.Contains(d.Status.StoredVersions, v.Name) {
			d.Status.StoredVersions = append(d.Status.StoredVersions, v.Name)
		}
	}
}

// Internal is the form of a definition that the libraries work on.
func Internal(d *apiextensionsv1.CustomResourceDefinition) (*apiextensions.CustomResourceDefinition, error) {
	out := new(apiextensions.CustomResourceDefinition)
	err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(d.DeepCopy(), out, nil)
	return out, err
}

func validateDefinition(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	internal, err := Internal(d)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return withoutMetadata(validation.ValidateCustomResourceDefinition(context.Background(), internal))
}

func validateDefinitionUpdate(d, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	internal, err := Internal(d)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	before, err := Internal(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return withoutMetadata(validation.ValidateCustomResourceDefinitionUpdate(context.Background(), internal, before))
}

// withoutMetadata leaves out what the server finds by itself.
func withoutMetadata(errs field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool { return strings.HasPrefix(e.Field, "metadata") })
}

// unknownFormats warns of formats of strings that mean nothing.
func unknownFormats(d *apiextensionsv1.CustomResourceDefinition) []string {
	var out []string
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			continue
		}
		props, s := new(apiextensions.JSONSchemaProps), new(spec.Schema)
		err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, props, nil)
		if err == nil {
			err = schemavalidation.ConvertJSONSchemaProps(props, s)
		}
		if err != nil {
			continue // which validation finds too
		}
		eachSchema(s, func(s *spec.Schema) {
			for _, format := range schemavalidation.GetUnrecognizedFormats(s, version.MajorMinor(1, 36)) {
				if text := fmt.Sprintf("unrecognized format %q", format); !slices.Contains(out, text) {
					out = append(out, text)
				}
			}
		})
	}
	return out
}

// eachSchema calls each for a schema and all below it that describe values.
func eachSchema(s *spec.Schema, each func(*spec.Schema)) {
	each(s)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[name]
		eachSchema(&child, each)
	}
	if s.Items != nil && s.Items.Schema != nil {
		eachSchema(s.Items.Schema, each)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		eachSchema(s.AdditionalProperties.Schema, each)
	}
}
