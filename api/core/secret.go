// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	PrepareCreate:  func(s *corev1.Secret) { s.Data = asStored(s.Data, nil) },
	PrepareUpdate:  func(s, old *corev1.Secret) { s.Data = asStored(s.Data, old.Immutable) },
	ValidateCreate: validateSecret,
	ValidateUpdate: func(s, old *corev1.Secret) field.ErrorList {
		return append(validateSecretChange(s, old), validateSecret(s)...)
	},
	Warnings: func(s *corev1.Secret) []string {
		if s.Type != corev1.SecretTypeTLS {
			return nil
		}
		if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
			return []string{err.Error()}
		}
		return nil
	},
	Columns: []resource.Column[corev1.Secret]{
		{Name: "Type", Value: func(s *corev1.Secret, _ time.Time) any { return string(s.Type) }},
		{Name: "Data", Type: "string", Value: func(s *corev1.Secret, _ time.Time) any { return int64(len(s.Data)) }},
	},
	Fields:     func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	FieldNames: []string{"type"},
}), func() runtime.Object { return new(corev1.SecretList) })

func validateSecret(s *corev1.Secret) (problems field.ErrorList) {
	total, data := 0, field.NewPath("data")
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		for _, m := range validation.IsConfigMapKey(key) {
			problems = append(problems, field.Invalid(data.Key(key), key, m))
		}
		total += len(s.Data[key])
	}
	if total > corev1.MaxSecretSize {
		problems = append(problems, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	return append(problems, validateSecretType(s, data)...)
}

// validateSecretType checks that a Secret has what its type promises.
func validateSecretType(s *corev1.Secret, data *field.Path) (problems field.ErrorList) {
	need := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				problems = append(problems, field.Required(data.Key(key), ""))
			}
		}
	}
	document := func(key string) {
		if need(key); len(problems) > 0 {
			return
		}
		var any map[string]any
		if err := json.Unmarshal(s.Data[key], &any); err != nil {
			problems = append(problems, field.Invalid(data.Key(key), "<secret contents redacted>", err.Error()))
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			problems = append(problems, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		document(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		document(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		if _, password := s.Data[corev1.BasicAuthPasswordKey]; !user && !password {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			problems = append(problems, field.Required(data.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return problems
}

func validateSecretChange(s, old *corev1.Secret) (problems field.ErrorList) {
	if s.Type != old.Type {
		problems = append(problems, field.Invalid(field.NewPath("type"), s.Type, apivalidation.FieldImmutableErrorMsg))
	}
	if !isTrue(old.Immutable) {
		return problems
	}
	problems = sealed(problems, "immutable", isTrue(s.Immutable))
	return sealed(problems, "data", reflect.DeepEqual(s.Data, old.Data))
}
