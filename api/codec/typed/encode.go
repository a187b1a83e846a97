// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// An encoder appends the JSON of the value at p.
type encoder func(dst []byte, p unsafe.Pointer) ([]byte, error)

// Append appends the JSON of obj as json.Marshal encodes it. obj must be a pointer to be fast; all else is left to
// encoding/json. It may be used by many at once, on the same object too.
func (t *Types) Append(dst []byte, obj any) ([]byte, error) {
	p, typ, ok := pointerTo(obj)
	if !ok {
		return appendMarshal(dst, obj)
	}
	e, ok := t.encoders.Load(typ)
	if !ok {
		e, _ = t.encoders.LoadOrStore(typ, encodePlan{}.encoder(typ))
	}
	dst, err := e.(encoder)(dst, p)
	return dst, err
}

func appendMarshal(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(dst, b...), err
}

// encodePlan has the structs whose encoders are being made, for types that contain themselves.
type encodePlan map[reflect.Type]*encoder

func (c encodePlan) encoder(t reflect.Type) encoder {
	switch t {
	case timeType():
		return appendTime
	case microTimeType():
		return appendMicroTime
	case quantityType():
		return appendQuantity
	case intOrStringType():
		return appendIntOrString
	case fieldsV1Type():
		return appendFieldsV1
	}
	if t.Kind() == reflect.Pointer {
		return c.pointer(t.Elem())
	}
	if isMarshaler(t) || isMarshaler(reflect.PointerTo(t)) {
		return library(t)
	}
	switch t.Kind() {
	case reflect.String:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return appendString(dst, *(*string)(p)), nil }
	case reflect.Bool:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return strconv.AppendBool(dst, *(*bool)(p)), nil }
	case reflect.Int32:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			return strconv.AppendInt(dst, int64(*(*int32)(p)), 10), nil
		}
	case reflect.Int64:
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			return strconv.AppendInt(dst, *(*int64)(p), 10), nil
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return appendBytes(t)
		}
		return c.slice(t.Elem())
	case reflect.Map:
		return c.stringMap(t)
	case reflect.Struct:
		return c.structure(t)
	}
	return library(t)
}

// library leaves values of a type to encoding/json.
func library(t reflect.Type) encoder {
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		return appendMarshal(dst, reflect.NewAt(t, p).Interface())
	}
}

func (c encodePlan) pointer(t reflect.Type) encoder {
	elem := c.encoder(t)
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		to := *(*unsafe.Pointer)(p)
		if to == nil {
			return append(dst, "null"...), nil
		}
		return elem(dst, to)
	}
}

// sliceHeader is how Go keeps a slice.
type sliceHeader struct {
	data     unsafe.Pointer
	len, cap int
}

func (c encodePlan) slice(t reflect.Type) encoder {
	elem, size := c.encoder(t), t.Size()
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		s := (*sliceHeader)(p)
		if s.data == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '[')
		var err error
		for i := range s.len {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = elem(dst, unsafe.Add(s.data, uintptr(i)*size)); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	}
}

func appendBytes(t reflect.Type) encoder {
	if isSpecial(t.Elem()) {
		return library(t)
	}
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		b := *(*[]byte)(p)
		if b == nil {
			return append(dst, "null"...), nil
		}
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, b)
		return append(dst, '"'), nil
	}
}

// stringMap encodes a map by its keys in order. encoding/json cannot take the address of a map's values: types for
// which that makes a difference are left to it.
func (c encodePlan) stringMap(t reflect.Type) encoder {
	if t.Key().Kind() != reflect.String || isMarshaler(t.Key()) || needsAddress(t.Elem(), nil) {
		return library(t)
	}
	elem := c.encoder(t.Elem())
	if t == reflect.TypeFor[map[string]string]() {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
			return appendStrings(dst, *(*map[string]string)(p)), nil
		}
	}
	return func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		m := reflect.NewAt(t, p).Elem()
		if m.IsNil() {
			return append(dst, "null"...), nil
		}
		type pair struct {
			key   string
			value int
		}
		pairs := make([]pair, 0, m.Len())
		values := reflect.MakeSlice(reflect.SliceOf(t.Elem()), m.Len(), m.Len())
		for iter := m.MapRange(); iter.Next(); {
			values.Index(len(pairs)).SetIterValue(iter)
			pairs = append(pairs, pair{iter.Key().String(), len(pairs)})
		}
		slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
		dst = append(dst, '{')
		var err error
		for i, one := range pairs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, one.key), ':')
			if dst, err = elem(dst, values.Index(one.value).Addr().UnsafePointer()); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
}

func appendStrings(dst []byte, m map[string]string) []byte {
	if m == nil {
		return append(dst, "null"...)
	}
	var few [16]string
	keys := few[:0]
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, key := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, key), ':')
		dst = appendString(dst, m[key])
	}
	return append(dst, '}')
}

// needsAddress says that only pointers to a type, or to a type within it, have a JSON form of their own.
func needsAddress(t reflect.Type, above []reflect.Type) bool {
	if slices.Contains(above, t) {
		return false
	}
	if isMarshaler(reflect.PointerTo(t)) && !isMarshaler(t) {
		return true
	}
	if t.Kind() != reflect.Struct || isMarshaler(t) {
		return false // what a pointer, slice or map leads to is judged there
	}
	above = append(above, t)
	for i := range t.NumField() {
		if f := t.Field(i); needsAddress(f.Type, above) {
			return true
		}
	}
	return false
}

// member is a field as an encoder needs it.
type member struct {
	offset uintptr
	key    string // with quotes and colon
	skip   func(p unsafe.Pointer) bool
	encode encoder
}

func (c encodePlan) structure(t reflect.Type) encoder {
	if made := c[t]; made != nil {
		return func(dst []byte, p unsafe.Pointer) ([]byte, error) { return (*made)(dst, p) }
	}
	made := new(encoder)
	c[t] = made
	fields, ok := fieldsOf(t)
	if !ok {
		*made = library(t)
		return *made
	}
	members := make([]member, 0, len(fields))
	for _, f := range fields {
		members = append(members, member{f.offset, `"` + f.name + `":`, skipper(f), c.encoder(f.typ)})
	}
	*made = func(dst []byte, p unsafe.Pointer) ([]byte, error) {
		dst = append(dst, '{')
		first := len(dst)
		var err error
		for i := range members {
			m := &members[i]
			at := unsafe.Add(p, m.offset)
			if m.skip != nil && m.skip(at) {
				continue
			}
			if len(dst) > first {
				dst = append(dst, ',')
			}
			dst = append(dst, m.key...)
			if dst, err = m.encode(dst, at); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	}
	return *made
}

// skipper tells when a field is left out; nil if never.
func skipper(f field) func(p unsafe.Pointer) bool {
	var tests []func(p unsafe.Pointer) bool
	if f.omitZero {
		tests = append(tests, zeroTest(f.typ))
	}
	if f.omitEmpty {
		if test := emptyTest(f.typ); test != nil {
			tests = append(tests, test)
		}
	}
	switch len(tests) {
	case 0:
		return nil
	case 1:
		return tests[0]
	}
	return func(p unsafe.Pointer) bool { return tests[0](p) || tests[1](p) }
}

func emptyTest(t reflect.Type) func(p unsafe.Pointer) bool {
	switch t.Kind() {
	case reflect.String:
		return func(p unsafe.Pointer) bool { return *(*string)(p) == "" }
	case reflect.Bool:
		return func(p unsafe.Pointer) bool { return !*(*bool)(p) }
	case reflect.Int32:
		return func(p unsafe.Pointer) bool { return *(*int32)(p) == 0 }
	case reflect.Int64:
		return func(p unsafe.Pointer) bool { return *(*int64)(p) == 0 }
	case reflect.Slice:
		return func(p unsafe.Pointer) bool { return (*sliceHeader)(p).len == 0 }
	case reflect.Pointer:
		return func(p unsafe.Pointer) bool { return *(*unsafe.Pointer)(p) == nil }
	case reflect.Map:
		return func(p unsafe.Pointer) bool {
			return *(*unsafe.Pointer)(p) == nil || reflect.NewAt(t, p).Elem().Len() == 0
		}
	case reflect.Array:
		return func(unsafe.Pointer) bool { return t.Len() == 0 }
	case reflect.Struct:
		return nil
	}
	return func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() }
}

func zeroTest(t reflect.Type) func(p unsafe.Pointer) bool {
	type zero interface{ IsZero() bool }
	is := reflect.TypeFor[zero]()
	switch {
	case t == timeType():
		return func(p unsafe.Pointer) bool { return (*metav1.Time)(p).IsZero() }
	case t.Kind() == reflect.Pointer && t.Implements(is):
		return func(p unsafe.Pointer) bool {
			v := reflect.NewAt(t, p).Elem()
			return v.IsNil() || v.Interface().(zero).IsZero()
		}
	case t.Implements(is), reflect.PointerTo(t).Implements(is):
		return func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Interface().(zero).IsZero() }
	}
	return func(p unsafe.Pointer) bool { return reflect.NewAt(t, p).Elem().IsZero() }
}

func appendTime(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return appendInstant(dst, (*metav1.Time)(p).Time, time.RFC3339)
}

func appendMicroTime(dst []byte, p unsafe.Pointer) ([]byte, error) {
	return appendInstant(dst, (*metav1.MicroTime)(p).Time, metav1.RFC3339Micro)
}

func appendInstant(dst []byte, t time.Time, layout string) ([]byte, error) {
	if t.IsZero() {
		return append(dst, "null"...), nil
	}
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, layout)
	return append(dst, '"'), nil
}

func appendQuantity(dst []byte, p unsafe.Pointer) ([]byte, error) {
	b, err := (*resource.Quantity)(p).MarshalJSON()
	return append(dst, b...), err
}

func appendIntOrString(dst []byte, p unsafe.Pointer) ([]byte, error) {
	switch v := (*intstr.IntOrString)(p); v.Type {
	case intstr.Int:
		return strconv.AppendInt(dst, int64(v.IntVal), 10), nil
	case intstr.String:
		return appendString(dst, v.StrVal), nil
	}
	return appendMarshal(dst, (*intstr.IntOrString)(p))
}

// appendFieldsV1 appends managed fields, which are JSON already. encoding/json would take white space out of them and
// escape characters: few need that.
func appendFieldsV1(dst []byte, p unsafe.Pointer) ([]byte, error) {
	f := (*metav1.FieldsV1)(p)
	s := f.GetRawString()
	if s == "" {
		return appendMarshal(dst, f)
	}
	for i := range len(s) {
		if c := s[i]; !plain(c) && c != '"' && c != '\\' || c == ' ' {
			return appendMarshal(dst, f)
		}
	}
	return append(dst, s...), nil
}

// plain says which bytes stand for themselves in a string of JSON, as encoding/json writes it.
func plain(c byte) bool {
	return c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plain(s[i]) {
			return appendEscaped(dst, s, i)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendEscaped appends a string whose first i bytes are plain.
func appendEscaped(dst []byte, s string, i int) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i < len(s) {
		c := s[i]
		if plain(c) {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError && r != '\u2028' && r != '\u2029' || r == utf8.RuneError && n > 1 {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			if r == utf8.RuneError {
				dst = append(dst, `\ufffd`...)
			} else {
				dst = append(dst, `\u202`...)
				dst = append(dst, hex[r&0xf])
			}
			i += n
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[c>>4], hex[c&0xf])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
