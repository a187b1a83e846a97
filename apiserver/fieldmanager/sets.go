// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// setsMax bounds the bytes of sets that are remembered; when there are more, all are forgotten.
const setsMax = 1 << 20

// sets remembers encoded sets of fields: most objects of one writer have the same.
type sets struct {
	mu    sync.Mutex
	known map[string]metav1.FieldsV1
	size  int
}

// of is the set with that encoding.
func (s *sets) of(encoded []byte) *metav1.FieldsV1 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.known[string(encoded)]; ok {
		return &have
	}
	made := metav1.NewFieldsV1(string(encoded))
	if s.known == nil || s.size+len(encoded) > setsMax {
		s.known, s.size = map[string]metav1.FieldsV1{}, 0
	}
	s.known[made.GetRawString()] = *made
	s.size += len(encoded)
	return made
}
