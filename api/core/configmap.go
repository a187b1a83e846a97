// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ConfigMaps hold configuration for pods.
var ConfigMaps = resource.WithList(resource.Define(resource.Definition[corev1.ConfigMap]{
	Group: "", Version: "v1", Kind: "ConfigMap", Resource: "configmaps",
	ShortNames: []string{"cm"},
	Scope:      resource.Namespaced,
	Validate:   validateConfigMap,
	Revalidate: func(c, old *corev1.ConfigMap) (problems field.ErrorList) {
		if old.Immutable == nil || !*old.Immutable {
			return validateConfigMap(c)
		}
		if c.Immutable == nil || !*c.Immutable {
			problems = append(problems, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.Data, old.Data) {
			problems = append(problems, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
		}
		if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
			problems = append(problems, field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
		}
		return append(problems, validateConfigMap(c)...)
	},
	Columns: []resource.Column[corev1.ConfigMap]{
		{Name: "Data", Value: func(c *corev1.ConfigMap, _ time.Time) any { return int64(len(c.Data) + len(c.BinaryData)) }},
	},
}), func() runtime.Object { return new(corev1.ConfigMapList) })

func validateConfigMap(c *corev1.ConfigMap) (problems field.ErrorList) {
	total := 0
	for key, value := range c.Data {
		at := field.NewPath("data").Key(key)
		for _, m := range validation.IsConfigMapKey(key) {
			problems = append(problems, field.Invalid(at, key, m))
		}
		if _, twice := c.BinaryData[key]; twice {
			problems = append(problems, field.Invalid(at, key, "duplicate of key present in binaryData"))
		}
		total += len(value)
	}
	for key, value := range c.BinaryData {
		for _, m := range validation.IsConfigMapKey(key) {
			problems = append(problems, field.Invalid(field.NewPath("binaryData").Key(key), key, m))
		}
		total += len(value)
	}
	if total > corev1.MaxSecretSize {
		problems = append(problems, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return problems
}
