// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// VolumeAttributesClasses name settings of volumes that may change while they are used.
var VolumeAttributesClasses = resource.WithList(resource.Define(resource.Definition[storagev1.VolumeAttributesClass]{
	Group: "storage.k8s.io", Version: "v1", Kind: "VolumeAttributesClass", Resource: "volumeattributesclasses",
	ShortNames:     []string{"vac"},
	Scope:          resource.Cluster,
	StoragePath:    "volumeattributesclasses",
	ValidateCreate: validateAttributesClass,
	ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) (problems field.ErrorList) {
		if c.DriverName != old.DriverName {
			problems = append(problems, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
			problems = append(problems, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return append(problems, validateAttributesClass(c)...)
	},
	Columns: []resource.Column[storagev1.VolumeAttributesClass]{
		{Name: "DriverName", Value: func(c *storagev1.VolumeAttributesClass, _ time.Time) any { return c.DriverName }},
	},
}), func() runtime.Object { return new(storagev1.VolumeAttributesClassList) })

func validateAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	problems := validateProvisioner(c.DriverName, field.NewPath("driverName"))
	return append(problems, validateParameters(c.Parameters, false, field.NewPath("parameters"))...)
}
