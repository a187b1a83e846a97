// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Secrets hold data that fewer may read.
var Secrets = resource.WithList(resource.Define(resource.Definition[corev1.Secret]{
	Group: "", Version: "v1", Kind: "Secret", Resource: "secrets",
	Scope: resource.Namespaced,
	Default: func(s *corev1.Secret) {
		orDefault(&s.Type, corev1.SecretTypeOpaque)
		for k, v := range s.StringData { // write-only convenience
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[k] = []byte(v)
		}
		s.StringData = nil
	},
	Validate: validateSecret,
	ValidateUpdate: func(s, old *corev1.Secret) (problems field.ErrorList) {
		if s.Type != old.Type {
			problems = append(problems, field.Invalid(field.NewPath("type"), s.Type, apivalidation.FieldImmutableErrorMsg))
		}
		if old.Immutable == nil || !*old.Immutable {
			return problems
		}
		if s.Immutable == nil || !*s.Immutable {
			problems = append(problems, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(s.Data, old.Data) {
			problems = append(problems, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
		return problems
	},
	Columns: []resource.Column[corev1.Secret]{
		{Name: "Type", Value: func(s *corev1.Secret, _ time.Time) any { return string(s.Type) }},
		{Name: "Data", Type: "string", Value: func(s *corev1.Secret, _ time.Time) any { return int64(len(s.Data)) }},
	},
	Fields:     func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	FieldNames: []string{"type"},
}), func() runtime.Object { return new(corev1.SecretList) })

func validateSecret(s *corev1.Secret) (problems field.ErrorList) {
	total := 0
	for key, value := range s.Data {
		for _, m := range validation.IsConfigMapKey(key) {
			problems = append(problems, field.Invalid(field.NewPath("data").Key(key), key, m))
		}
		total += len(value)
	}
	if total > corev1.MaxSecretSize {
		problems = append(problems, field.TooLong(field.NewPath("data"), "", corev1.MaxSecretSize))
	}
	return problems
}
