// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

func validateEnv(vars []corev1.EnvVar, volumes volumeSet, at *field.Path) (problems field.ErrorList) {
	for i := range vars {
		e, at := &vars[i], nth(at, i)
		if e.Name == "" {
			problems = append(problems, field.Required(at.Child("name"), ""))
		} else {
			for _, m := range validation.IsRelaxedEnvVarName(e.Name) {
				problems = append(problems, field.Invalid(at.Child("name"), e.Name, m))
			}
		}
		if e.ValueFrom != nil {
			problems = append(problems, validateEnvSource(e, volumes, under(at, "valueFrom"))...)
		}
	}
	return problems
}

func validateEnvSource(e *corev1.EnvVar, volumes volumeSet, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	from, n := e.ValueFrom, 0
	if from.FieldRef != nil {
		n++
		problems = append(problems, validateFieldRef(from.FieldRef, envFields(), under(at, "fieldRef"))...)
	}
	if from.ResourceFieldRef != nil {
		n++
		problems = append(problems, validateResourceRef(from.ResourceFieldRef, false, under(at, "resourceFieldRef"))...)
	}
	if from.ConfigMapKeyRef != nil {
		n++
		problems = append(problems, keyRef(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, under(at, "configMapKeyRef"))...)
	}
	if from.SecretKeyRef != nil {
		n++
		problems = append(problems, keyRef(from.SecretKeyRef.Name, from.SecretKeyRef.Key, under(at, "secretKeyRef"))...)
	}
	if from.FileKeyRef != nil {
		n++
		problems = append(problems, fileKey(from.FileKeyRef, volumes, under(at, "fileKeyRef"))...)
	}
	switch {
	case n == 0:
		problems = append(problems, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		problems = append(problems, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		problems = append(problems, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return problems
}

// fileKey checks a reference to a variable in a file of a volume of the pod's own.
func fileKey(ref *corev1.FileKeySelector, volumes volumeSet, at *field.Path) field.ErrorList {
	problems := needed(at, "key", ref.Key)
	if ref.Key != "" {
		for _, m := range validation.IsRelaxedEnvVarName(ref.Key) {
			problems = append(problems, field.Invalid(at.Child("key"), ref.Key, m))
		}
	}
	volume := at.Child("volumeName")
	if ref.VolumeName == "" {
		problems = append(problems, field.Required(volume, ""))
	} else {
		problems = append(problems, dnsLabel(ref.VolumeName, volume)...)
	}
	problems = append(problems, needed(at, "path", ref.Path)...)
	problems = append(problems, noBackSteps(ref.Path, at.Child("path"))...)
	switch v := volumes[ref.VolumeName]; {
	case v == nil:
		problems = append(problems, field.NotFound(volume, ref.VolumeName))
	case v.EmptyDir == nil:
		problems = append(problems, field.Invalid(volume, ref.VolumeName, "referenced volume must be of type emptyDir"))
	}
	return problems
}

// neededName is a required name of another object.
func neededName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return subdomain(name, at)
}

func keyRef(name, key string, at *field.Path) field.ErrorList {
	problems := subdomain(name, under(at, "name"))
	if key == "" {
		return append(problems, field.Required(at.Child("key"), ""))
	}
	for _, m := range validation.IsConfigMapKey(key) {
		problems = append(problems, field.Invalid(at.Child("key"), key, m))
	}
	return problems
}

func subdomain(name string, at *field.Path) (problems field.ErrorList) {
	if resource.IsSubdomain(name) {
		return nil
	}
	for _, m := range validation.IsDNS1123Subdomain(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	return problems
}

func validateEnvFrom(sources []corev1.EnvFromSource, all *field.Path) (problems field.ErrorList) {
	for i := range sources {
		s, at := &sources[i], nth(all, i)
		if s.Prefix != "" {
			for _, m := range validation.IsRelaxedEnvVarName(s.Prefix) {
				problems = append(problems, field.Invalid(at.Child("prefix"), s.Prefix, m))
			}
		}
		n := 0
		if s.ConfigMapRef != nil {
			n++
			problems = append(problems, neededName(s.ConfigMapRef.Name, under(at, "configMapRef", "name"))...)
		}
		if s.SecretRef != nil {
			n++
			problems = append(problems, neededName(s.SecretRef.Name, under(at, "secretRef", "name"))...)
		}
		switch {
		case n == 0:
			problems = append(problems, field.Invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"))
		case n > 1:
			problems = append(problems, field.Invalid(all, "", "may not have more than one field specified at a time"))
		}
	}
	return problems
}

// envFields are the fields of a pod that environment variables may hold, volumeFields those that files may.
func envFields() []string {
	return []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
}

func volumeFields() []string {
	return []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}
}

// knownField tells whether a pod has a field for such references at all.
func knownField(path string) bool {
	switch path {
	case "metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase":
		return true
	}
	return slices.Contains(envFields(), path)
}

func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed []string, at *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	bad := func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(at.Child("fieldPath"), ref.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))}
	}
	if ref.APIVersion != "v1" {
		return bad("unsupported pod version: %s", ref.APIVersion)
	}
	path, key, subscripted := splitSubscript(ref.FieldPath)
	if !subscripted {
		switch {
		case !knownField(ref.FieldPath):
			return bad("field label not supported: %s", ref.FieldPath)
		case !slices.Contains(allowed, ref.FieldPath):
			return field.ErrorList{field.NotSupported(at.Child("fieldPath"), ref.FieldPath, slices.Sorted(slices.Values(allowed)))}
		}
		return nil
	}
	var problems field.ErrorList
	switch path {
	case "metadata.annotations":
		for _, m := range validation.IsQualifiedName(strings.ToLower(key)) {
			problems = append(problems, field.Invalid(at, key, m))
		}
	case "metadata.labels":
		for _, m := range validation.IsQualifiedName(key) {
			problems = append(problems, field.Invalid(at, key, m))
		}
	default:
		return bad("field label does not support subscript: %s", ref.FieldPath)
	}
	return problems
}

// splitSubscript takes metadata.labels['key'] apart.
func splitSubscript(path string) (field, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	field, key, ok = strings.Cut(rest, "['")
	if !ok || field == "" {
		return path, "", false
	}
	return field, key, true
}

func validateResourceRef(ref *corev1.ResourceFieldSelector, volume bool, at *field.Path) field.ErrorList {
	if volume && ref.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if ref.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	known := sets.New("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage")
	huge := strings.HasPrefix(ref.Resource, "limits."+corev1.ResourceHugePagesPrefix) || strings.HasPrefix(ref.Resource, "requests."+corev1.ResourceHugePagesPrefix)
	if !known.Has(ref.Resource) && !huge {
		return field.ErrorList{field.NotSupported(at.Child("resource"), ref.Resource, sets.List(known))}
	}
	_, name, _ := strings.Cut(ref.Resource, ".")
	divisors := sets.New("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
	message := "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource"
	switch name {
	case "cpu":
		divisors, message = sets.New("1", "1m"), "only divisor's values 1m and 1 are supported with the cpu resource"
	case "memory":
		message = strings.Replace(message, "local ephemeral storage", "memory", 1)
	}
	if d := ref.Divisor; !d.IsZero() && !divisors.Has(d.String()) && !huge {
		return field.ErrorList{field.Invalid(at.Child("divisor"), d.String(), message)}
	}
	return nil
}
