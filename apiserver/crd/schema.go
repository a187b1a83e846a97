// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"

	"knarr.dev/api/resource"
)

// compiled is what a version says about its objects, compiled. The parts that cost are made when they are first needed.
type compiled struct {
	structural *structural.Structural
	preserve   bool // unknown fields, by the definition's old switch
	validator  func() (validation.SchemaValidator, error)
	status     func() (validation.SchemaValidator, error) // of the status alone, nil if the schema says nothing of it
	rules      func() *cel.Validator
	figures    *Figures
}

// compile compiles the schema of a version.
func compile(d *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion, figures *Figures) (*compiled, error) {
	s := &compiled{preserve: d.Spec.PreserveUnknownFields, structural: &structural.Structural{}, figures: figures}
	var props *apiextensions.JSONSchemaProps
	if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
		props = new(apiextensions.JSONSchemaProps)
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, props, nil); err != nil {
			return nil, err
		}
		made, err := structural.NewStructural(props)
		if err != nil {
			return nil, fmt.Errorf("schema of version %s: %w", v.Name, err)
		}
		s.structural = made
	}
	s.validator = sync.OnceValues(func() (validation.SchemaValidator, error) {
		made, _, err := validation.NewSchemaValidator(props)
		return made, err
	})
	s.status = sync.OnceValues(func() (validation.SchemaValidator, error) {
		if props == nil {
			return nil, nil
		}
		of, ok := props.Properties["status"]
		if !ok {
			return nil, nil
		}
		made, _, err := validation.NewSchemaValidator(&of)
		return made, err
	})
	s.rules = sync.OnceValue(func() *cel.Validator {
		start := time.Now()
		made := cel.NewValidator(s.structural, true, celconfig.PerCallLimit)
		if made != nil {
			s.figures.compiled(start)
		}
		return made
	})
	return s, nil
}

// coerce drops what the schema does not know and checks the types of metadata. unknown is filled in if it is not nil.
func (s *compiled) coerce(u *unstructured.Unstructured, dropInvalid bool, unknown *[]string) error {
	apiVersion, kind := u.GetAPIVersion(), u.GetKind()
	track := unknown != nil
	meta, found, lost, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: dropInvalid, ReturnUnknownFieldPaths: track,
	})
	if err != nil {
		return err
	}
	if track {
		*unknown = append(*unknown, lost...)
	}
	if !s.preserve {
		gone := pruning.PruneWithOptions(u.Object, s.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: track})
		if track {
			*unknown = append(*unknown, gone...)
		}
		defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, s.structural)
	}
	problem, gone := objectmeta.CoerceWithOptions(nil, u.Object, s.structural, false, objectmeta.CoerceOptions{
		DropInvalidFields: dropInvalid, ReturnUnknownFieldPaths: track,
	})
	if problem != nil {
		return problem
	}
	if track {
		*unknown = append(*unknown, gone...)
	}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	if !found {
		return nil
	}
	return objectmeta.SetObjectMeta(u.Object, meta)
}

// applyDefaults fills in defaults.
func (s *compiled) applyDefaults(u *unstructured.Unstructured) {
	if s.structural != nil {
		defaulting.Default(u.Object, s.structural)
	}
}

// problems are all problems of an object; old is nil for a new one. What did not change is let through with an old problem.
func (s *compiled) problems(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	return s.check(ctx, u, old, func(options ...validation.ValidationOption) field.ErrorList {
		validator, err := s.validator()
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		if old == nil {
			return validation.ValidateCustomResource(nil, u.Object, validator)
		}
		return validation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, validator, options...)
	})
}

// statusProblems are all problems of an object whose status alone may have changed.
func (s *compiled) statusProblems(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	return s.check(ctx, u, old, func(...validation.ValidationOption) field.ErrorList {
		validator, err := s.status()
		status, has := u.Object["status"]
		switch {
		case err != nil:
			return field.ErrorList{field.InternalError(nil, err)}
		case validator == nil || !has:
			return nil
		}
		return validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], validator)
	})
}

// check adds to what a schema finds what lists, embedded objects and rules say.
func (s *compiled) check(ctx context.Context, u, old *unstructured.Unstructured, schema func(...validation.ValidationOption) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	var options []validation.ValidationOption
	var ruleOptions []cel.Option
	var correlated *common.CorrelatedObject
	if old == nil {
		errs = schema()
	} else {
		correlated = common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: s.structural})
		options = append(options, validation.WithRatcheting(correlated))
		ruleOptions = append(ruleOptions, cel.WithRatcheting(correlated))
		errs = schema(options...)
	}
	errs = append(errs, objectmeta.Validate(nil, u.Object, s.structural, false)...)
	errs = append(errs, s.listProblems(u, old)...)
	rules := s.rules()
	if rules == nil {
		return errs
	}
	if blocks(errs) {
		return append(errs, field.Invalid(nil, nil,
			"some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var before any
	if old != nil {
		before = old.Object
	}
	defer s.figures.evaluated(time.Now())
	broken, _ := rules.Validate(ctx, nil, s.structural, u.Object, before, celconfig.RuntimeCELCostBudget, ruleOptions...)
	return append(errs, broken...)
}

// listProblems finds duplicates in sets and maps, unless the stored object has them too.
func (s *compiled) listProblems(u, old *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, s.structural, u.Object)
	if old == nil || len(errs) == 0 {
		return errs
	}
	if len(listtype.ValidateListSetsAndMaps(nil, s.structural, old.Object)) > 0 {
		return nil
	}
	return errs
}

// blocks says whether rules cannot be evaluated because an object does not have the form that they rely on.
func blocks(errs field.ErrorList) bool {
	for _, e := range errs {
		switch e.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

// typeProblems finds a kind or version that is not that of the resource, which a patch can bring about.
func typeProblems(k *resource.Kind, u *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	if got := u.GetKind(); got != k.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), got, "must be "+k.Kind))
	}
	if got, want := u.GetAPIVersion(), k.GroupVersion().String(); got != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), got, "must be "+want))
	}
	return errs
}

// fieldPath splits .spec.replicas.
func fieldPath(path string) []string {
	return strings.Split(strings.TrimPrefix(path, "."), ".")
}

func asCustom(o resource.Object) *unstructured.Unstructured { return o.(*unstructured.Unstructured) }
