// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"time"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A decoder reads one value into the zero value at p. It returns false, having left p in any state, for everything that
// is not plainly right.
type decoder func(r *reader, p unsafe.Pointer) bool

// Decode decodes JSON into obj, a pointer to a zero value. It returns false, with obj zero again, unless the JSON is
// valid, each of its fields is known, in the right letters, given once and of the right type. Then the result is that of
// sigs.k8s.io/json's UnmarshalStrict without any error. It may be used by many at once.
func (t *Types) Decode(data []byte, obj any) bool {
	p, typ, ok := pointerTo(obj)
	if !ok || !isZero(p, typ.Size()) {
		return false
	}
	d, ok := t.decoders.Load(typ)
	if !ok {
		d, _ = t.decoders.LoadOrStore(typ, decodePlan{}.decoder(typ))
	}
	r := reader{data: data, types: t}
	if d.(decoder)(&r, p) && r.next() == 0 && r.at == len(data) {
		return true
	}
	reflect.NewAt(typ, p).Elem().SetZero()
	return false
}

// isZero tells of memory, gaps between fields included: a value that is zero only by its fields is refused.
func isZero(p unsafe.Pointer, size uintptr) bool {
	at := uintptr(0) // no pointer goes past the end, which the race detector would not allow
	if uintptr(p)%8 == 0 {
		for ; size-at >= 8; at += 8 {
			if *(*uint64)(unsafe.Add(p, at)) != 0 {
				return false
			}
		}
	}
	for ; at < size; at++ {
		if *(*byte)(unsafe.Add(p, at)) != 0 {
			return false
		}
	}
	return true
}

// decodePlan has the structs whose decoders are being made, for types that contain themselves.
type decodePlan map[reflect.Type]*decoder

func (c decodePlan) decoder(t reflect.Type) decoder {
	switch t {
	case timeType():
		return readTime
	case microTimeType():
		return readMicroTime
	case quantityType():
		return readQuantity
	case intOrStringType():
		return readIntOrString
	case fieldsV1Type():
		return readFieldsV1
	}
	if t.Kind() == reflect.Pointer {
		return c.pointer(t.Elem())
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return unmarshaler(t)
	}
	if isUnmarshaler(t) || isUnmarshaler(reflect.PointerTo(t)) {
		return giveUp
	}
	switch t.Kind() {
	case reflect.String:
		return readString
	case reflect.Bool:
		return readBool
	case reflect.Int32:
		return readInt32
	case reflect.Int64:
		return readInt64
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return readBytes
		}
		return c.slice(t)
	case reflect.Map:
		return c.stringMap(t)
	case reflect.Struct:
		return c.structure(t)
	}
	return giveUp
}

func giveUp(*reader, unsafe.Pointer) bool { return false }

// unmarshaler hands the bytes of a value to its own method.
func unmarshaler(t reflect.Type) decoder {
	return func(r *reader, p unsafe.Pointer) bool {
		raw, ok := r.raw()
		return ok && string(raw) != "null" && reflect.NewAt(t, p).Interface().(json.Unmarshaler).UnmarshalJSON(raw) == nil
	}
}

func (c decodePlan) pointer(t reflect.Type) decoder {
	elem := c.decoder(t)
	return func(r *reader, p unsafe.Pointer) bool {
		if r.next() == 'n' {
			return r.word("null")
		}
		v := reflect.New(t)
		*(*unsafe.Pointer)(p) = v.UnsafePointer()
		return elem(r, v.UnsafePointer())
	}
}

func (c decodePlan) slice(t reflect.Type) decoder {
	elem := c.decoder(t.Elem())
	return func(r *reader, p unsafe.Pointer) bool {
		if r.next() == 'n' {
			return r.word("null")
		}
		v, n := reflect.NewAt(t, p).Elem(), 0
		if !r.array(func() bool {
			if n == v.Cap() {
				v.Grow(1)
			}
			v.SetLen(n + 1)
			n++
			return elem(r, v.Index(n-1).Addr().UnsafePointer())
		}) {
			return false
		}
		if n == 0 {
			v.Set(reflect.MakeSlice(t, 0, 0))
		}
		return true
	}
}

func (c decodePlan) stringMap(t reflect.Type) decoder {
	if t.Key().Kind() != reflect.String || isUnmarshaler(t.Key()) || isUnmarshaler(reflect.PointerTo(t.Key())) {
		return giveUp
	}
	if t == reflect.TypeFor[map[string]string]() {
		return readStrings
	}
	elem := c.decoder(t.Elem())
	return func(r *reader, p unsafe.Pointer) bool {
		if r.next() == 'n' {
			return r.word("null")
		}
		v := reflect.NewAt(t, p).Elem()
		v.Set(reflect.MakeMap(t))
		return r.object(func(name []byte) bool {
			key := reflect.ValueOf(r.types.texts.of(name)).Convert(t.Key())
			value := reflect.New(t.Elem())
			if v.MapIndex(key).IsValid() || !elem(r, value.UnsafePointer()) {
				return false
			}
			v.SetMapIndex(key, value.Elem())
			return true
		})
	}
}

func readStrings(r *reader, p unsafe.Pointer) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	m := map[string]string{}
	*(*map[string]string)(p) = m
	return r.object(func(name []byte) bool {
		key := r.types.texts.of(name)
		if _, twice := m[key]; twice {
			return false
		}
		if r.next() == 'n' {
			m[key] = ""
			return r.word("null")
		}
		value, ok := r.text()
		m[key] = r.types.texts.of(value)
		return ok
	})
}

// slot is a field as a decoder needs it.
type slot struct {
	name   string
	offset uintptr
	decode decoder
}

func (c decodePlan) structure(t reflect.Type) decoder {
	if made := c[t]; made != nil {
		return func(r *reader, p unsafe.Pointer) bool { return (*made)(r, p) }
	}
	made := new(decoder)
	c[t] = made
	fields, ok := fieldsOf(t)
	if !ok {
		*made = giveUp
		return giveUp
	}
	slots := make([]slot, 0, len(fields))
	index := make(map[string]int, len(fields))
	for i, f := range fields {
		slots = append(slots, slot{f.name, f.offset, c.decoder(f.typ)})
		index[f.name] = i
	}
	*made = func(r *reader, p unsafe.Pointer) bool {
		if r.next() == 'n' {
			return r.word("null")
		}
		var seen [maxFields / 64]uint64
		likely := 0
		return r.object(func(name []byte) bool {
			if likely >= len(slots) || string(name) != slots[likely].name {
				i, known := index[string(name)]
				if !known {
					return false
				}
				likely = i
			}
			bit := uint64(1) << (likely % 64)
			if seen[likely/64]&bit != 0 {
				return false
			}
			seen[likely/64] |= bit
			s := &slots[likely]
			likely++
			return s.decode(r, unsafe.Add(p, s.offset))
		})
	}
	return *made
}

func readString(r *reader, p unsafe.Pointer) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	s, ok := r.text()
	*(*string)(p) = r.types.texts.of(s)
	return ok
}

func readBool(r *reader, p unsafe.Pointer) bool {
	switch r.next() {
	case 't':
		*(*bool)(p) = true
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	}
	return false
}

func readInt64(r *reader, p unsafe.Pointer) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	n, ok := r.integer()
	*(*int64)(p) = n
	return ok
}

func readInt32(r *reader, p unsafe.Pointer) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	n, ok := r.integer()
	*(*int32)(p) = int32(n)
	return ok && n >= math.MinInt32 && n <= math.MaxInt32
}

func readBytes(r *reader, p unsafe.Pointer) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	s, ok := r.text()
	if !ok {
		return false
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Decode(b, s)
	*(*[]byte)(p) = b[:n]
	return err == nil
}

func readTime(r *reader, p unsafe.Pointer) bool {
	return readInstant(r, &(*metav1.Time)(p).Time, time.RFC3339)
}

func readMicroTime(r *reader, p unsafe.Pointer) bool {
	return readInstant(r, &(*metav1.MicroTime)(p).Time, metav1.RFC3339Micro)
}

func readInstant(r *reader, to *time.Time, layout string) bool {
	if r.next() == 'n' {
		return r.word("null")
	}
	s, ok := r.text()
	if !ok {
		return false
	}
	t, err := time.Parse(layout, string(s))
	*to = t.Local()
	return err == nil
}

func readQuantity(r *reader, p unsafe.Pointer) bool {
	raw, ok := r.raw()
	if n := len(raw); ok && n > 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		return r.types.quantities.read(bytes.TrimSpace(raw[1:n-1]), (*resource.Quantity)(p))
	}
	return ok && string(raw) != "null" && (*resource.Quantity)(p).UnmarshalJSON(raw) == nil
}

func readIntOrString(r *reader, p unsafe.Pointer) bool {
	v := (*intstr.IntOrString)(p)
	if r.next() == '"' {
		v.Type = intstr.String
		s, ok := r.text()
		v.StrVal = string(s)
		return ok
	}
	n, ok := r.integer()
	v.IntVal = int32(n)
	return ok && n >= math.MinInt32 && n <= math.MaxInt32
}

func readFieldsV1(r *reader, p unsafe.Pointer) bool {
	raw, ok := r.raw()
	if !ok || string(raw) == "null" {
		return false
	}
	(*metav1.FieldsV1)(p).SetRawString(r.types.sets.of(raw))
	return true
}

func parseInteger(b []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(b), 10, 64) // does not allocate
	return n, err == nil
}
