// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package typed

import (
	"encoding/binary"
	"reflect"
	"strconv"
	"strings"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Wire types of https://protobuf.dev/programming-guides/encoding/ that the API uses most.
const (
	wireVarint = 0
	wireBytes  = 2
)

// maxNumber bounds the numbers of fields that are known.
const maxNumber = 255

// wire is one decoding.
type wire struct {
	types *Types
	depth int
}

// message is what the types of the API do by themselves.
type message interface{ Unmarshal([]byte) error }

// protoField reads a field of a message. Its functions are for what the wire type says, and leave p in any state when they
// return false.
type protoField struct {
	offset uintptr
	wire   byte
	varint func(v uint64, p unsafe.Pointer)
	bytes  func(w *wire, b []byte, p unsafe.Pointer) bool
	// run, of fields that come several times, reads all values, of which there are n.
	run func(w *wire, b []byte, n int, p unsafe.Pointer) bool
}

// protoMessage reads the fields of a struct, by number.
type protoMessage struct{ fields []*protoField }

// DecodeProto decodes a protobuf message into obj, a pointer to a zero value. It returns false, with obj zero again, unless the
// message has known fields of the right type only, in the order of their numbers, as the encoders of the API write it. Then
// the result is that of obj's own Unmarshal. It may be used by many at once.
func (t *Types) DecodeProto(data []byte, obj any) bool {
	p, typ, ok := pointerTo(obj)
	if !ok || typ.Kind() != reflect.Struct || !isZero(p, typ.Size()) {
		return false
	}
	d, ok := t.messages.Load(typ)
	if !ok {
		d, _ = t.messages.LoadOrStore(typ, protoPlan{}.message(typ))
	}
	w := wire{types: t}
	if d.(*protoMessage).decode(&w, data, p) {
		return true
	}
	reflect.NewAt(typ, p).Elem().SetZero()
	return false
}

// uvarint reads a number and returns what follows; false if there is none. Most take one byte.
func uvarint(b []byte) (uint64, []byte, bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), b[1:], true
	}
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// value reads a length and so many bytes, and returns them and what follows.
func value(b []byte) (one, rest []byte, ok bool) {
	n, b, ok := uvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

func (m *protoMessage) decode(w *wire, b []byte, p unsafe.Pointer) bool {
	if m.fields == nil || w.depth == maxDepth {
		return false
	}
	w.depth++
	last := uint64(0)
	for len(b) > 0 {
		tag, rest, ok := uvarint(b)
		number := tag >> 3
		if !ok || number <= last || number >= uint64(len(m.fields)) {
			return false
		}
		last = number
		f := m.fields[number]
		if f == nil || byte(tag&7) != f.wire {
			return false
		}
		at := unsafe.Add(p, f.offset)
		switch {
		case f.run != nil:
			n, end := count(b, tag)
			if n == 0 || !f.run(w, b[:len(b)-end], n, at) {
				return false
			}
			b = b[len(b)-end:]
		case f.wire == wireVarint:
			v, after, ok := uvarint(rest)
			if !ok {
				return false
			}
			f.varint(v, at)
			b = after
		default:
			one, after, ok := value(rest)
			if !ok || !f.bytes(w, one, at) {
				return false
			}
			b = after
		}
	}
	w.depth--
	return true
}

// count says how many values of a field b begins with, and how many bytes follow them; 0 if one is not valid.
func count(b []byte, tag uint64) (n, end int) {
	for len(b) > 0 {
		next, rest, ok := uvarint(b)
		if !ok || next != tag {
			break
		}
		if tag&7 == wireVarint {
			_, rest, ok = uvarint(rest)
		} else {
			_, rest, ok = value(rest)
		}
		if !ok {
			return 0, 0
		}
		n, b = n+1, rest
	}
	return n, len(b)
}

// each calls read for the values of a run that count has seen.
func each(b []byte, read func(one []byte) bool) bool {
	for len(b) > 0 {
		_, rest, _ := uvarint(b)
		one, rest, _ := value(rest)
		if !read(one) {
			return false
		}
		b = rest
	}
	return true
}

// protoPlan has the messages that are being made, for types that contain themselves.
type protoPlan map[reflect.Type]*protoMessage

// message makes the decoder of a struct; without fields if it is none that can be read here.
func (c protoPlan) message(t reflect.Type) *protoMessage {
	if made := c[t]; made != nil {
		return made
	}
	m := new(protoMessage)
	c[t] = m
	if !isPlain(t) {
		return m
	}
	fields := make([]*protoField, 1)
	for i := range t.NumField() {
		f := t.Field(i)
		number, ok := protoNumber(f)
		if !ok {
			continue
		}
		for len(fields) <= number {
			fields = append(fields, nil)
		}
		one := varintField(f.Type)
		if one == nil {
			one = c.bytesField(f.Type)
		}
		if one != nil {
			one.offset = f.Offset
			fields[number] = one
		}
	}
	m.fields = fields
	return m
}

// protoNumber reads the number of a field from its tag. What the tag says of the wire type is not right everywhere; the generated
// code goes by the type of the field.
func protoNumber(f reflect.StructField) (number int, ok bool) {
	parts := strings.SplitN(f.Tag.Get("protobuf"), ",", 3)
	if len(parts) < 3 || !f.IsExported() {
		return 0, false
	}
	number, err := strconv.Atoi(parts[1])
	return number, err == nil && number > 0 && number <= maxNumber
}

// isPlain says that all of a struct is in its tagged fields, so that its Unmarshal is a generated one.
func isPlain(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || !reflect.PointerTo(t).Implements(reflect.TypeFor[message]()) {
		return false
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type == reflect.TypeFor[metav1.TypeMeta]() && f.Tag.Get("protobuf") == "" {
			continue // the envelope has it
		}
		if _, ok := protoNumber(f); !ok {
			return false
		}
	}
	return true
}

// varintField makes the decoder of a field of numbers; nil for other types.
func varintField(t reflect.Type) *protoField {
	f := &protoField{wire: wireVarint}
	switch t.Kind() {
	case reflect.Bool:
		f.varint = func(v uint64, p unsafe.Pointer) { *(*bool)(p) = v != 0 }
	case reflect.Int32:
		f.varint = func(v uint64, p unsafe.Pointer) { *(*int32)(p) = int32(v) }
	case reflect.Int64:
		f.varint = func(v uint64, p unsafe.Pointer) { *(*int64)(p) = int64(v) }
	case reflect.Pointer:
		elem := t.Elem()
		inner := varintField(elem)
		if inner == nil || inner.run != nil || elem.Kind() == reflect.Pointer {
			return nil
		}
		f.varint = func(v uint64, p unsafe.Pointer) {
			to := reflect.New(elem).UnsafePointer()
			*(*unsafe.Pointer)(p) = to
			inner.varint(v, to)
		}
	case reflect.Slice:
		inner := varintField(t.Elem())
		if inner == nil || inner.varint == nil || t.Elem().Kind() == reflect.Pointer {
			return nil
		}
		f.run = func(_ *wire, b []byte, n int, p unsafe.Pointer) bool {
			v := reflect.NewAt(t, p).Elem()
			v.Grow(n)
			v.SetLen(n)
			for i := range n {
				_, rest, _ := uvarint(b)
				one, rest, _ := uvarint(rest)
				inner.varint(one, v.Index(i).Addr().UnsafePointer())
				b = rest
			}
			return true
		}
	default:
		return nil
	}
	return f
}

// bytesField makes the decoder of a field of what has a length; nil if its type is not read here.
func (c protoPlan) bytesField(t reflect.Type) *protoField {
	f := &protoField{wire: wireBytes}
	if t.Kind() == reflect.Pointer {
		elem := t.Elem()
		inner := c.bytesField(elem)
		if inner == nil || inner.bytes == nil || elem.Kind() == reflect.Pointer || elem.Kind() == reflect.Slice {
			return nil
		}
		f.bytes = func(w *wire, b []byte, p unsafe.Pointer) bool {
			to := reflect.New(elem).UnsafePointer()
			*(*unsafe.Pointer)(p) = to
			return inner.bytes(w, b, to)
		}
		return f
	}
	if f.bytes = c.single(t); f.bytes != nil {
		return f
	}
	switch t.Kind() {
	case reflect.Slice:
		f.run = c.slice(t)
	case reflect.Map:
		f.run = c.protoMap(t)
	}
	if f.run == nil {
		return nil
	}
	return f
}

// single reads one value of a type; nil if the type has several or is not read here.
func (c protoPlan) single(t reflect.Type) func(w *wire, b []byte, p unsafe.Pointer) bool {
	switch {
	case isPlain(t):
		return c.message(t).decode
	case t == quantityType():
		return readProtoQuantity
	case t == fieldsV1Type():
		return readProtoFields
	case reflect.PointerTo(t).Implements(reflect.TypeFor[message]()):
		return func(_ *wire, b []byte, p unsafe.Pointer) bool {
			return reflect.NewAt(t, p).Interface().(message).Unmarshal(b) == nil
		}
	case t.Kind() == reflect.String:
		return func(w *wire, b []byte, p unsafe.Pointer) bool {
			*(*string)(p) = w.types.texts.of(b)
			return true
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return func(_ *wire, b []byte, p unsafe.Pointer) bool {
			*(*[]byte)(p) = append(make([]byte, 0, len(b)), b...)
			return true
		}
	}
	return nil
}

func (c protoPlan) slice(t reflect.Type) func(w *wire, b []byte, n int, p unsafe.Pointer) bool {
	elem := t.Elem()
	if elem.Kind() == reflect.String && !reflect.PointerTo(elem).Implements(reflect.TypeFor[message]()) {
		return func(w *wire, b []byte, n int, p unsafe.Pointer) bool {
			all := make([]string, 0, n)
			ok := each(b, func(one []byte) bool {
				all = append(all, w.types.texts.of(one))
				return true
			})
			*(*[]string)(p) = all
			return ok
		}
	}
	read := c.single(elem)
	if read == nil {
		return nil
	}
	size := elem.Size()
	return func(w *wire, b []byte, n int, p unsafe.Pointer) bool {
		v := reflect.NewAt(t, p).Elem()
		v.Grow(n)
		v.SetLen(n)
		at, first := uintptr(0), v.UnsafePointer()
		return each(b, func(one []byte) bool {
			to := unsafe.Add(first, at)
			at += size
			return read(w, one, to)
		})
	}
}

// entry splits an entry of a map, whose key and value may be left out: they are nil then.
func entry(b []byte) (key, val []byte, ok bool) {
	if len(b) > 0 && b[0] == 1<<3|wireBytes {
		if key, b, ok = value(b[1:]); !ok {
			return nil, nil, false
		}
	}
	if len(b) > 0 && b[0] == 2<<3|wireBytes {
		if val, b, ok = value(b[1:]); !ok {
			return nil, nil, false
		}
	}
	return key, val, len(b) == 0
}

func (c protoPlan) protoMap(t reflect.Type) func(w *wire, b []byte, n int, p unsafe.Pointer) bool {
	switch t {
	case reflect.TypeFor[map[string]string]():
		return readProtoStrings
	case reflect.TypeFor[corev1.ResourceList]():
		return readProtoResources
	}
	read := c.single(t.Elem())
	if t.Key().Kind() != reflect.String || read == nil || t.Elem().Kind() == reflect.Slice && t.Elem().Elem().Kind() != reflect.Uint8 {
		return nil
	}
	return func(w *wire, b []byte, n int, p unsafe.Pointer) bool {
		m := reflect.MakeMapWithSize(t, n)
		reflect.NewAt(t, p).Elem().Set(m)
		return each(b, func(one []byte) bool {
			key, val, ok := entry(one)
			if !ok || val == nil {
				return false
			}
			k, v := reflect.New(t.Key()).Elem(), reflect.New(t.Elem())
			k.SetString(w.types.texts.of(key))
			if !read(w, val, v.UnsafePointer()) {
				return false
			}
			m.SetMapIndex(k, v.Elem())
			return true
		})
	}
}

func readProtoStrings(w *wire, b []byte, n int, p unsafe.Pointer) bool {
	m := make(map[string]string, n)
	*(*map[string]string)(p) = m
	return each(b, func(one []byte) bool {
		key, val, ok := entry(one)
		if ok {
			m[w.types.texts.of(key)] = w.types.texts.of(val)
		}
		return ok
	})
}

func readProtoResources(w *wire, b []byte, n int, p unsafe.Pointer) bool {
	m := make(corev1.ResourceList, n)
	*(*corev1.ResourceList)(p) = m
	return each(b, func(one []byte) bool {
		key, val, ok := entry(one)
		if !ok || val == nil {
			return false
		}
		var q resource.Quantity
		if !readProtoQuantity(w, val, unsafe.Pointer(&q)) {
			return false
		}
		m[corev1.ResourceName(w.types.texts.of(key))] = q
		return true
	})
}

func readProtoQuantity(w *wire, b []byte, p unsafe.Pointer) bool {
	if len(b) == 0 || b[0] != 1<<3|wireBytes {
		return false
	}
	text, rest, ok := value(b[1:])
	return ok && len(rest) == 0 && w.types.quantities.read(text, (*resource.Quantity)(p))
}

func readProtoFields(w *wire, b []byte, p unsafe.Pointer) bool {
	if len(b) == 0 || b[0] != 1<<3|wireBytes {
		return false
	}
	raw, rest, ok := value(b[1:])
	if !ok || len(rest) > 0 || len(raw) == 0 {
		return false
	}
	(*metav1.FieldsV1)(p).SetRawString(w.types.sets.of(raw))
	return true
}
