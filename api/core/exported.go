// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What follows are rules that kinds of other groups share.

// DriverName checks the name of a CSI or device driver.
func DriverName(name string, at *field.Path) field.ErrorList { return driverName(name, at) }

// Subdomain checks a name made of DNS-1123 subdomains.
func Subdomain(name string, at *field.Path) field.ErrorList { return subdomain(name, at) }

// Label checks a DNS-1123 label.
func Label(name string, at *field.Path) field.ErrorList { return dnsLabel(name, at) }

// Allowed checks a value against those that are known; an empty one is just another wrong one.
func Allowed[T ~string](at *field.Path, value T, known ...T) field.ErrorList {
	return allowed(at, value, known...)
}

// Needed checks that values are not empty; they come as pairs of a field's name and its value.
func Needed(at *field.Path, values ...string) field.ErrorList { return needed(at, values...) }

// Immutable refuses changes.
func Immutable(value, old any, at *field.Path) field.ErrorList { return immutable(value, old, at) }

// Tolerations checks tolerations.
func Tolerations(list []corev1.Toleration, at *field.Path) field.ErrorList {
	return validateTolerations(list, at)
}

// Overhead checks resources as the limits of a container.
func Overhead(list corev1.ResourceList, at *field.Path) field.ErrorList {
	return validateResources(&corev1.ResourceRequirements{Limits: list}, validateContainerResourceName, at)
}

// ContainerResource checks the name of a resource of containers.
func ContainerResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	return validateContainerResourceName(name, at)
}

// ExtendedResource tells whether a resource's name is one that Kubernetes leaves to others.
func ExtendedResource(name corev1.ResourceName) bool { return isExtended(name) }

// DeprecatedNodeLabel says what to use instead of a label of nodes that is deprecated, or nothing.
func DeprecatedNodeLabel(key string) string { return deprecatedNodeLabel(key) }

// SetDefault sets a pointer that is nil.
func SetDefault[T any](field **T, value T) { setDefault(field, value) }

// Age is how long ago t was, as kubectl shows it.
func Age(t metav1.Time, now time.Time) string { return age(t, now) }

// SameToleration tells whether two tolerations are for the same taints.
func SameToleration(a, b corev1.Toleration) bool {
	return a.Key == b.Key && a.Operator == b.Operator && a.Value == b.Value && a.Effect == b.Effect && equal(a.TolerationSeconds, b.TolerationSeconds)
}
