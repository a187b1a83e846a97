// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// Shared keeps parts that many objects have in common, so that each is in memory once: ten thousand pods of a few
// templates have the same images, labels, limits and probes. Its zero value is ready; whoever shares it with other goroutines
// holds its lock while an object is shared. What goes in and what comes out must not be modified any more.
type Shared struct {
	sync.Mutex
	texts map[string]string
	parts map[string]any
	key   []byte
}

// sharedMax is how many parts are kept; when there are more, all are forgotten. Objects keep what they have.
const sharedMax = 16384

// Message is a protobuf message of the Kubernetes API.
type Message[T any] interface {
	*T
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// String returns s, the same one for all that are equal.
func (s *Shared) String(v *string) {
	if *v == "" {
		return
	}
	if had, ok := s.texts[*v]; ok {
		*v = had
		return
	}
	if s.texts == nil || len(s.texts) >= sharedMax {
		s.texts = map[string]string{}
	}
	s.texts[*v] = *v
}

// Map shares a map of strings.
func (s *Shared) Map(v *map[string]string) {
	if len(*v) == 0 {
		return
	}
	*v = share(s, 'm', func(b []byte) ([]byte, bool) {
		names := make([]string, 0, 16)
		for k := range *v {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			b = append(append(append(append(b, k...), 0), (*v)[k]...), 0)
		}
		return b, true
	}, *v)
}

// Resources shares a list of quantities.
func (s *Shared) Resources(v *corev1.ResourceList) {
	if len(*v) == 0 {
		return
	}
	*v = share(s, 'r', func(b []byte) ([]byte, bool) {
		names := make([]corev1.ResourceName, 0, 8)
		for k := range *v {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			q := (*v)[k]
			b = append(append(append(append(b, k...), 0), q.String()...), 0)
		}
		return b, true
	}, *v)
}

// SharePointer shares a message that is pointed to. kind tells the types of messages apart.
func SharePointer[T any, P Message[T]](s *Shared, kind byte, v **T) {
	if *v != nil {
		*v = share(s, kind, func(b []byte) ([]byte, bool) { return appendMessage(b, P(*v)) }, *v)
	}
}

// ShareSlice shares a slice of messages. kind tells the types of messages apart.
func ShareSlice[T any, P Message[T]](s *Shared, kind byte, v *[]T) {
	if len(*v) == 0 {
		return
	}
	*v = share(s, kind, func(b []byte) ([]byte, bool) {
		ok := true
		for i := range *v {
			if b, ok = appendMessage(b, P(&(*v)[i])); !ok {
				return b, false
			}
			b = append(b, 0xff, byte(i))
		}
		return b, true
	}, slices.Clip(*v))
}

func appendMessage[T any, P Message[T]](b []byte, m P) ([]byte, bool) {
	at, size := len(b), m.Size()
	b = slices.Grow(b, size)[:at+size]
	_, err := m.MarshalToSizedBuffer(b[at:])
	return b, err == nil
}

// Forget forgets all parts, under the lock. Objects keep what they have.
func (s *Shared) Forget() {
	s.Lock()
	defer s.Unlock()
	s.texts, s.parts = nil, nil
}

func share[V any](s *Shared, kind byte, key func([]byte) ([]byte, bool), v V) V {
	b, ok := key(append(s.key[:0], kind))
	s.key = b
	if !ok {
		return v
	}
	if had, ok := s.parts[string(b)]; ok {
		return had.(V)
	}
	if s.parts == nil || len(s.parts) >= sharedMax {
		s.parts = map[string]any{}
	}
	s.parts[string(b)] = v
	return v
}
