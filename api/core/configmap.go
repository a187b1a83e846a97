// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"reflect"
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
	ShortNames:    []string{"cm"},
	Scope:         resource.Namespaced,
	PrepareCreate: func(c *corev1.ConfigMap) { c.BinaryData = asStored(c.BinaryData, nil) },
	PrepareUpdate: func(c, old *corev1.ConfigMap) { c.BinaryData = asStored(c.BinaryData, old.Immutable) },
	Validate:      validateConfigMap,
	Revalidate: func(c, old *corev1.ConfigMap) (problems field.ErrorList) {
		if isTrue(old.Immutable) {
			problems = sealed(problems, "immutable", isTrue(c.Immutable))
			problems = sealed(problems, "data", equality.Semantic.DeepEqual(c.Data, old.Data))
			problems = sealed(problems, "binaryData", reflect.DeepEqual(c.BinaryData, old.BinaryData))
		}
		return append(problems, validateConfigMap(c)...)
	},
	Columns: []resource.Column[corev1.ConfigMap]{
		{Name: "Data", Value: func(c *corev1.ConfigMap, _ time.Time) any { return int64(len(c.Data) + len(c.BinaryData)) }},
	},
}), func() runtime.Object { return new(corev1.ConfigMapList) })

// sealed adds that a field of an immutable ConfigMap or Secret did not stay as it was.
func sealed(problems field.ErrorList, name string, stayed bool) field.ErrorList {
	if stayed {
		return problems
	}
	return append(problems, field.Forbidden(field.NewPath(name), "field is immutable when `immutable` is set"))
}

// asStored is binary data as it comes back from where it is stored, which knows no empty maps and no missing values. To immutable data
// that makes a difference: a change is one too that would not be stored.
func asStored(data map[string][]byte, immutable *bool) map[string][]byte {
	switch {
	case isTrue(immutable):
		return data
	case len(data) == 0:
		return nil
	}
	for key, value := range data {
		if value == nil {
			data[key] = []byte{}
		}
	}
	return data
}

func isTrue(b *bool) bool { return b != nil && *b }

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
