// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package devices

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// DeviceClasses name devices that claims can ask for.
var DeviceClasses = resource.WithList(resource.Define(resource.Definition[resourcev1.DeviceClass]{
	Group: "resource.k8s.io", Version: "v1", Kind: "DeviceClass", Resource: "deviceclasses",
	Scope:         resource.Cluster,
	StoragePath:   "deviceclasses",
	PrepareCreate: func(c *resourcev1.DeviceClass) { c.Generation = 1 },
	PrepareUpdate: func(c, old *resourcev1.DeviceClass) {
		c.Generation = old.Generation
		if !equality.Semantic.DeepEqual(c.Spec, old.Spec) {
			c.Generation++
		}
	},
	Validate: func(c *resourcev1.DeviceClass) field.ErrorList { return ValidateClass(c, nil) },
}), func() runtime.Object { return new(resourcev1.DeviceClassList) })

// ValidateClass checks a class.
func ValidateClass(c *resourcev1.DeviceClass, compile Compile) field.ErrorList {
	at := field.NewPath("spec")
	problems := validateSelectors(c.Spec.Selectors, compile, at.Child("selectors"))
	problems = append(problems, checked(c.Spec.Config, resourcev1.DeviceConfigMaxSize, nil, func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
		return validateConfiguration(&c.DeviceConfiguration, at)
	}, at.Child("config"))...)
	if n := c.Spec.ExtendedResourceName; n != nil && !core.ExtendedResource(corev1.ResourceName(*n)) {
		problems = append(problems, field.Invalid(at.Child("extendedResourceName"), *n, "must be a valid extended resource name"))
	}
	return problems
}
