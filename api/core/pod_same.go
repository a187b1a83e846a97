// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"bytes"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// sameSpec says whether two specs mean the same. Most that do have the same encoding too, which is found out several
// times faster than by comparing field by field.
func sameSpec(a, b *corev1.PodSpec) bool {
	return sameEncoding(a, b) || equality.Semantic.DeepEqual(a, b)
}

func sameEncoding(a, b *corev1.PodSpec) bool {
	size := a.Size()
	if size != b.Size() {
		return false
	}
	room := make([]byte, 2*size)
	x, y := room[:size], room[size:]
	if n, err := a.MarshalToSizedBuffer(x); err != nil || n != size {
		return false
	}
	if n, err := b.MarshalToSizedBuffer(y); err != nil || n != size {
		return false
	}
	return bytes.Equal(x, y)
}
