// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Annotations that make a class the one for claims that name none.
const (
	DefaultClass     = "storageclass.kubernetes.io/is-default-class"
	BetaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// Bounds of the parameters of a class.
const (
	parametersMax     = 512
	parametersSizeMax = 256 << 10
)

// StorageClasses say how volumes are made.
var StorageClasses = resource.WithList(resource.Define(resource.Definition[storagev1.StorageClass]{
	Group: "storage.k8s.io", Version: "v1", Kind: "StorageClass", Resource: "storageclasses",
	ShortNames:  []string{"sc"},
	Scope:       resource.Cluster,
	StoragePath: "storageclasses",
	Default: func(c *storagev1.StorageClass) {
		core.SetDefault(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		core.SetDefault(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	},
	Validate:       validateStorageClass,
	ValidateUpdate: validateStorageClassChange,
	Warnings: func(c *storagev1.StorageClass) (out []string) {
		for i, t := range c.AllowedTopologies {
			for j, e := range t.MatchLabelExpressions {
				if text := core.DeprecatedNodeLabel(e.Key); text != "" {
					at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key")
					out = append(out, at.String()+": "+text)
				}
			}
		}
		return out
	},
	Columns: []resource.Column[storagev1.StorageClass]{
		{Name: "Name", Value: func(c *storagev1.StorageClass, _ time.Time) any {
			if IsDefault(c) {
				return c.Name + " (default)"
			}
			return c.Name
		}},
		{Name: "Provisioner", Value: func(c *storagev1.StorageClass, _ time.Time) any { return c.Provisioner }},
		{Name: "ReclaimPolicy", Value: func(c *storagev1.StorageClass, _ time.Time) any {
			if c.ReclaimPolicy == nil {
				return string(corev1.PersistentVolumeReclaimDelete)
			}
			return string(*c.ReclaimPolicy)
		}},
		{Name: "VolumeBindingMode", Value: func(c *storagev1.StorageClass, _ time.Time) any {
			if c.VolumeBindingMode == nil {
				return string(storagev1.VolumeBindingImmediate)
			}
			return string(*c.VolumeBindingMode)
		}},
		{Name: "AllowVolumeExpansion", Value: func(c *storagev1.StorageClass, _ time.Time) any {
			return c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion
		}},
	},
}), func() runtime.Object { return new(storagev1.StorageClassList) })

// IsDefault tells whether claims that name no class get this one.
func IsDefault(c *storagev1.StorageClass) bool {
	return c.Annotations[DefaultClass] == "true" || c.Annotations[BetaDefaultClass] == "true"
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	problems := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	problems = append(problems, validateParameters(c.Parameters, true, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		problems = append(problems, core.Allowed(field.NewPath("reclaimPolicy"), *p, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	if m := c.VolumeBindingMode; m == nil {
		problems = append(problems, field.Required(field.NewPath("volumeBindingMode"), ""))
	} else {
		problems = append(problems, core.Allowed(field.NewPath("volumeBindingMode"), *m, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(problems, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// validateProvisioner checks the name of a driver, in lower case.
func validateProvisioner(name string, at *field.Path) (problems field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, name)}
	}
	name = strings.ToLower(name)
	for _, m := range validation.IsQualifiedName(name) {
		problems = append(problems, field.Invalid(at, name, m))
	}
	return problems
}

func validateParameters(parameters map[string]string, mayBeEmpty bool, at *field.Path) (problems field.ErrorList) {
	if len(parameters) == 0 && !mayBeEmpty {
		return field.ErrorList{field.Required(at, "must contain at least one key/value pair")}
	}
	if len(parameters) > parametersMax {
		return field.ErrorList{field.TooLong(at, "", parametersMax)}
	}
	size := 0
	for key, value := range parameters {
		if key == "" {
			problems = append(problems, field.Invalid(at, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > parametersSizeMax {
		problems = append(problems, field.TooLong(at, "", parametersSizeMax))
	}
	return problems
}

// validateTopologies checks the places where volumes may be; none may be given twice, with its values in any order.
func validateTopologies(topologies []corev1.TopologySelectorTerm, at *field.Path) (problems field.ErrorList) {
	places := make([]map[string]sets.Set[string], len(topologies)) // to Kubernetes, one without expressions is there already, as often
	for i, t := range topologies {
		all := at.Index(i).Child("matchLabelExpressions")
		place := map[string]sets.Set[string]{}
		for j, e := range t.MatchLabelExpressions {
			at := all.Index(j)
			values := sets.New[string]()
			if len(e.Values) == 0 {
				problems = append(problems, field.Required(at.Child("values"), ""))
			}
			for k, v := range e.Values {
				if values.Has(v) {
					problems = append(problems, field.Duplicate(at.Child("values").Index(k), v))
				}
				values.Insert(v)
			}
			for _, m := range validation.IsQualifiedName(e.Key) {
				problems = append(problems, field.Invalid(at.Child("key"), e.Key, m))
			}
			if _, twice := place[e.Key]; twice {
				problems = append(problems, field.Duplicate(at.Child("key"), e.Key))
			}
			place[e.Key] = values
		}
		for _, p := range places {
			if equality.Semantic.DeepEqual(p, place) {
				problems = append(problems, field.Duplicate(all, ""))
			}
		}
		places = append(places, place)
	}
	return problems
}

func validateStorageClassChange(c, old *storagev1.StorageClass) (problems field.ErrorList) {
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner},
	} {
		problems = append(problems, core.Immutable(f.now, f.was, field.NewPath(f.name))...)
	}
	if now, was := c.ReclaimPolicy, old.ReclaimPolicy; now != nil && was != nil && *now != *was {
		problems = append(problems, core.Immutable(*now, *was, field.NewPath("reclaimPolicy"))...)
	}
	return append(problems, core.Immutable(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}
