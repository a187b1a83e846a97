// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"reflect"
	"sort"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// basic is what a value looks like in JSON.
type basic uint8

const (
	boolean basic = iota
	integer
	unsigned
	float
	text
	base64Bytes
	structure
	dictionary
	list
	custom // encodes itself
)

// shape is a Go type as its JSON shows it, worked out once.
type shape struct {
	basic   basic
	pointer bool // to the value
	fields  []shapeField
	elem    *shape
	entry   *value.TypeReflectCacheEntry // of a custom type
	kind    customKind
	typ     reflect.Type // of the value, without the pointer unless it is custom
	// partial says that some part has no shape: recursive types, interfaces. whole is set when the shape is made.
	partial, whole bool
}

// customKind names the types that encode themselves and are worth a shortcut.
type customKind uint8

const (
	otherKind customKind = iota
	timeKind
	microTimeKind
)

// shapeField is one field of a structure, in the order of names.
type shapeField struct {
	name      string
	index     []int
	offset    uintptr      // of where it lies
	typ       reflect.Type // of what lies there
	omitEmpty bool
	omitZero  func(reflect.Value) bool
	shape     *shape
}

// shapes caches the shapes of types while plans are made.
type shapes map[reflect.Type]*shape

func (s shapes) of(t reflect.Type) *shape {
	if sh := s[t]; sh != nil {
		return sh
	}
	sh := &shape{typ: t}
	s[t] = sh
	defer func() { sh.whole = true }()
	if e := value.TypeReflectEntryOf(t); e.CanConvertToUnstructured() {
		sh.basic, sh.entry, sh.kind = custom, e, kindOf(t)
		sh.pointer = t.Kind() == reflect.Pointer
		return sh
	}
	if t.Kind() == reflect.Pointer {
		if to := s.of(t.Elem()); to != nil && to.whole {
			*sh = *to
			sh.pointer = true
			return sh
		}
		delete(s, t)
		return nil
	}
	switch t.Kind() {
	case reflect.Bool:
		sh.basic = boolean
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		sh.basic = integer
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		sh.basic = unsigned
	case reflect.Float32, reflect.Float64:
		sh.basic = float
	case reflect.String:
		sh.basic = text
	case reflect.Slice:
		sh.basic = list
		if t.Elem().Kind() == reflect.Uint8 {
			sh.basic = base64Bytes
			return sh
		}
		sh.elem = s.of(t.Elem())
		sh.partial = sh.elem == nil || sh.elem.partial || !sh.elem.whole
	case reflect.Map:
		sh.basic, sh.elem = dictionary, s.of(t.Elem())
		sh.partial = sh.elem == nil || sh.elem.partial || !sh.elem.whole
	case reflect.Struct:
		sh.basic = structure
		sh.fields = s.fieldsOf(t, nil, 0)
		for _, f := range sh.fields {
			sh.partial = sh.partial || f.shape == nil || f.shape.partial || !f.shape.whole
		}
		sort.Slice(sh.fields, func(i, j int) bool { return sh.fields[i].name < sh.fields[j].name })
	default:
		delete(s, t)
		return nil // interfaces: no built-in type shows one
	}
	return sh
}

func kindOf(t reflect.Type) customKind {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[metav1.Time]():
		return timeKind
	case reflect.TypeFor[metav1.MicroTime]():
		return microTimeKind
	}
	return otherKind
}

func (s shapes) fieldsOf(t reflect.Type, path []int, base uintptr) []shapeField {
	var out []shapeField
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		options = "," + options + ","
		index := append(path[:len(path):len(path)], i)
		if strings.Contains(options, ",inline,") {
			if f.Type.Kind() == reflect.Struct {
				out = append(out, s.fieldsOf(f.Type, index, base+f.Offset)...)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		field := shapeField{
			name: name, index: index, offset: base + f.Offset, typ: f.Type,
			omitEmpty: strings.Contains(options, ",omitempty,"), shape: s.of(f.Type),
		}
		if strings.Contains(options, ",omitzero,") {
			field.omitZero = value.OmitZeroFunc(f.Type)
		}
		out = append(out, field)
	}
	return out
}

// get is the field of a structure, or an invalid value if JSON leaves it out or the structure is invalid itself.
func (f *shapeField) get(v reflect.Value) reflect.Value {
	if !v.IsValid() {
		return v
	}
	if len(f.index) == 1 {
		v = v.Field(f.index[0])
	} else {
		v = v.FieldByIndex(f.index)
	}
	if f.omitEmpty && isEmpty(v) || f.omitZero != nil && f.omitZero(v) {
		return reflect.Value{}
	}
	return v
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Bool:
		return !v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int() == 0
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return v.Uint() == 0
	case reflect.Float32, reflect.Float64:
		return v.Float() == 0
	case reflect.Interface, reflect.Pointer:
		return v.IsNil()
	}
	return false
}

// deref follows the pointer of a value that is not custom. An invalid outcome is null.
func (sh *shape) deref(v reflect.Value) reflect.Value {
	if sh.pointer && sh.basic != custom {
		if v.IsNil() {
			return reflect.Value{}
		}
		v = v.Elem()
	}
	switch sh.basic {
	case base64Bytes, dictionary, list:
		if v.IsNil() {
			return reflect.Value{}
		}
	}
	return v
}

// same says whether two values look the same in JSON.
func (sh *shape) same(a, b reflect.Value) bool {
	if sh.basic == custom {
		return sh.sameCustom(a, b)
	}
	a, b = sh.deref(a), sh.deref(b)
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	switch sh.basic {
	case boolean:
		return a.Bool() == b.Bool()
	case integer:
		return a.Int() == b.Int()
	case unsigned:
		return a.Uint() == b.Uint()
	case float:
		return a.Float() == b.Float()
	case text:
		return a.String() == b.String()
	case base64Bytes:
		return string(a.Bytes()) == string(b.Bytes())
	case list:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !sh.elem.same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case dictionary:
		if a.Len() != b.Len() {
			return false
		}
		for iter := a.MapRange(); iter.Next(); {
			other := b.MapIndex(iter.Key())
			if !other.IsValid() || !sh.elem.same(iter.Value(), other) {
				return false
			}
		}
		return true
	}
	for i := range sh.fields {
		f := &sh.fields[i]
		x, y := f.get(a), f.get(b)
		if x.IsValid() != y.IsValid() || x.IsValid() && !f.shape.same(x, y) {
			return false
		}
	}
	return true
}

func (sh *shape) sameCustom(a, b reflect.Value) bool {
	if sh.pointer && (a.IsNil() || b.IsNil()) {
		return sh.unstructured(a) == nil && sh.unstructured(b) == nil
	}
	switch sh.kind {
	case timeKind:
		x, y := times[metav1.Time](sh, a), times[metav1.Time](sh, b)
		return x.IsZero() == y.IsZero() && (x.IsZero() || x.Unix() == y.Unix())
	case microTimeKind:
		x, y := times[metav1.MicroTime](sh, a), times[metav1.MicroTime](sh, b)
		return x.IsZero() == y.IsZero() && (x.IsZero() || x.UnixMicro() == y.UnixMicro())
	}
	x, y := sh.unstructured(a), sh.unstructured(b)
	return value.Equals(value.NewValueInterface(x), value.NewValueInterface(y))
}

func times[T any](sh *shape, v reflect.Value) *T {
	if !sh.pointer && v.CanAddr() {
		v = v.Addr()
	}
	if t, ok := v.Interface().(*T); ok {
		return t
	}
	t := v.Interface().(T)
	return &t
}

// unstructured is what a custom value encodes itself as; nil is null, and what it cannot encode.
func (sh *shape) unstructured(v reflect.Value) any {
	u, err := sh.entry.ToUnstructured(v)
	if err != nil {
		return nil
	}
	return u
}
