// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"knarr.dev/api/resource"
)

// podSpecs compares specs of pods in memory.
var podSpecs = sync.OnceValue(func() *resource.Comparer { return resource.NewComparer(reflect.TypeFor[corev1.PodSpec]()) })

// SamePodSpec says whether two specs mean the same.
func SamePodSpec(a, b *corev1.PodSpec) bool {
	switch resource.Compare(podSpecs(), a, b) {
	case resource.Same:
		return true
	case resource.Differ:
		return false
	}
	return equality.Semantic.DeepEqual(a, b)
}
