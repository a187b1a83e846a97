// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tracer notes in a few bytes on what the description of a new object depends: which fields it has, and the keys of its maps and lists.
// Two objects of one type with equal traces have the same set of fields, as most that one controller creates, and making a trace
// costs a fraction of a description. It goes through the object as describer does.
type tracer struct {
	out   []byte
	texts []string
}

// Marks in a trace. A structure is the numbers of its fields, up to structureEnd.
const (
	markNone = iota
	markSome
	markZero
	structureEnd = 0xff
)

// trace notes an object, to which v points. Not ok is an object for describer.
func (t *tracer) trace(p *plan, v reflect.Value) bool {
	if p == nil || p.form != object || !p.shape.pointer || v.Kind() != reflect.Pointer || v.IsNil() {
		return false
	}
	return t.object(p, v.UnsafePointer(), false)
}

// object notes a structure; added says that there was none before, else it was empty.
func (t *tracer) object(p *plan, at unsafe.Pointer, added bool) bool {
	if len(p.fields) >= structureEnd {
		return false
	}
	for i := range p.fields {
		f := &p.fields[i]
		field := unsafe.Add(at, f.offset)
		if f.left(field) {
			continue
		}
		t.out = append(t.out, byte(i))
		if !t.child(f.plan, field, added || f.omitZero != nil || f.omitEmpty && f.typ.Kind() != reflect.Struct && f.typ.Kind() != reflect.Array) {
			return false
		}
	}
	t.out = append(t.out, structureEnd)
	return true
}

// left says that JSON leaves out the field that lies there.
func (f *shapeField) left(at unsafe.Pointer) bool {
	if f.omitZero != nil && f.omitZero(reflect.NewAt(f.typ, at).Elem()) {
		return true
	}
	if !f.omitEmpty {
		return false
	}
	switch f.typ.Kind() {
	case reflect.String:
		return *(*string)(at) == ""
	case reflect.Slice:
		return len(*(*[]struct{})(at)) == 0
	case reflect.Pointer:
		return *(*unsafe.Pointer)(at) == nil
	case reflect.Map:
		return *(*unsafe.Pointer)(at) == nil || isEmpty(reflect.NewAt(f.typ, at).Elem())
	case reflect.Bool:
		return !*(*bool)(at)
	case reflect.Int32:
		return *(*int32)(at) == 0
	case reflect.Int64:
		return *(*int64)(at) == 0
	case reflect.Struct:
		return false
	}
	return isEmpty(reflect.NewAt(f.typ, at).Elem())
}

func (t *tracer) child(p *plan, at unsafe.Pointer, added bool) bool {
	switch {
	case p == nil || p.form == strange:
		return false
	case p.form == leaf:
		return added || t.leaf(p.shape, at)
	case p.shape.pointer:
		if at = *(*unsafe.Pointer)(at); at == nil {
			t.out = append(t.out, markNone)
			return true
		}
		if !added {
			return false
		}
		t.out = append(t.out, markSome)
	}
	switch p.form {
	case object:
		return t.object(p, at, added)
	case mapping:
		return t.mapping(p, at)
	}
	return t.list(p, at)
}

// leaf notes whether a value that was zero before still looks so.
func (t *tracer) leaf(sh *shape, at unsafe.Pointer) bool {
	mark := byte(markZero)
	switch {
	case sh.pointer, sh.basic == list, sh.basic == base64Bytes, sh.basic == dictionary:
		if *(*unsafe.Pointer)(at) != nil {
			mark = markSome
		}
		if mark == markSome && sh.pointer && sh.basic == custom { // which may show nothing all the same
			return false
		}
	case sh.basic == text:
		if *(*string)(at) != "" {
			mark = markSome
		}
	default:
		v := reflect.NewAt(sh.typ, at).Elem()
		if !v.IsZero() {
			if sh.basic != boolean && sh.basic != integer && sh.basic != unsigned {
				return false
			}
			mark = markSome
		}
	}
	t.out = append(t.out, mark)
	return true
}

func (t *tracer) mapping(p *plan, at unsafe.Pointer) bool {
	if p.elem == nil || p.elem.form != leaf {
		return false
	}
	if *(*unsafe.Pointer)(at) == nil {
		t.out = append(t.out, markNone)
		return true
	}
	mark := len(t.texts)
	switch p.shape.typ {
	case reflect.TypeFor[map[string]string]():
		for key := range *(*map[string]string)(at) {
			t.texts = append(t.texts, key)
		}
	case reflect.TypeFor[corev1.ResourceList]():
		for key := range *(*corev1.ResourceList)(at) {
			t.texts = append(t.texts, string(key))
		}
	default:
		for iter := reflect.NewAt(p.shape.typ, at).Elem().MapRange(); iter.Next(); {
			t.texts = append(t.texts, iter.Key().String())
		}
	}
	keys := t.texts[mark:]
	slices.Sort(keys)
	t.out = binary.AppendUvarint(append(t.out, markSome), uint64(len(keys)))
	for _, key := range keys {
		t.text(key)
	}
	t.texts = t.texts[:mark]
	return true
}

func (t *tracer) text(s string) {
	t.out = append(binary.AppendUvarint(t.out, uint64(len(s))), s...)
}

func (t *tracer) list(p *plan, at unsafe.Pointer) bool {
	if p.elem == nil || p.elem.shape == nil {
		return false
	}
	items := *(*[]struct{})(at) // of which length and address are right
	n, first := len(items), *(*unsafe.Pointer)(at)
	if first == nil {
		t.out = append(t.out, markNone)
		return true
	}
	t.out = binary.AppendUvarint(append(t.out, markSome), uint64(n))
	stride := p.shape.typ.Elem().Size()
	for i := range n {
		item := unsafe.Add(first, uintptr(i)*stride)
		if !t.element(p, item) || !t.child(p.elem, item, true) {
			return false
		}
	}
	return true
}

// element notes what names an item of a list.
func (t *tracer) element(p *plan, item unsafe.Pointer) bool {
	if p.form == set {
		return t.scalar(p.elem.shape, item)
	}
	for i := range p.keys {
		key := &p.keys[i]
		at := unsafe.Add(item, key.offset)
		if key.left(at) {
			t.out = append(t.out, markNone)
			continue
		}
		t.out = append(t.out, markSome)
		if !t.scalar(key.shape, at) {
			return false
		}
	}
	return true
}

func (t *tracer) scalar(sh *shape, at unsafe.Pointer) bool {
	if sh.pointer {
		if at = *(*unsafe.Pointer)(at); at == nil {
			return false
		}
	}
	switch sh.basic {
	case text:
		t.text(*(*string)(at))
		return true
	case integer:
		t.out = binary.AppendVarint(t.out, reflect.NewAt(sh.typ, at).Elem().Int())
		return true
	}
	return false
}

// tracesMax bounds the bytes of traces of one kind that are remembered; when there are more, all are forgotten.
const tracesMax = 64 << 10

// traces remembers the sets of fields of new objects of one type by their traces.
type traces struct {
	pool  sync.Pool // of *tracer
	mu    sync.RWMutex
	known map[string]metav1.FieldsV1
	size  int
}

func (s *traces) get() *tracer {
	t, _ := s.pool.Get().(*tracer)
	if t == nil {
		t = &tracer{out: make([]byte, 0, 1<<10)}
	}
	t.out = t.out[:0]
	return t
}

func (s *traces) put(t *tracer) {
	clear(t.texts)
	t.texts = t.texts[:0]
	if cap(t.out) <= describeMax {
		s.pool.Put(t)
	}
}

// of is the set that belongs to a trace, or nil.
func (s *traces) of(trace []byte) *metav1.FieldsV1 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if set, ok := s.known[string(trace)]; ok {
		return &set
	}
	return nil
}

func (s *traces) learn(trace []byte, set *metav1.FieldsV1) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil || s.size+len(trace) > tracesMax {
		s.known, s.size = map[string]metav1.FieldsV1{}, 0
	}
	s.known[string(trace)] = *set
	s.size += len(trace)
}
