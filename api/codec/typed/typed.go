// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package typed encodes and decodes the JSON, and decodes the protobuf messages, of Go types that do not change while the
// program runs, such as those of Kubernetes' built-in kinds. What a type needs is worked out once; after that an object is walked by the offsets of
// its fields, without reflection.
//
// The results are those of encoding/json, sigs.k8s.io/json and the types' own Unmarshal, byte for byte and value for value. Whatever is out of the
// ordinary is left to them: Append hands single values over, and Decode gives up without a trace, so that its caller
// decodes again with the library, which also knows the words for what is wrong.
package typed

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Types has the plans of the types that were seen. Its zero value is ready for use, by many at once.
type Types struct {
	encoders, decoders, messages sync.Map // by reflect.Type

	texts      texts
	sets       sets
	quantities quantities
}

// field is a field of a struct, or of a struct that it embeds, as JSON sees it.
type field struct {
	name      string
	typ       reflect.Type
	offset    uintptr
	omitEmpty bool
	omitZero  bool
}

// fieldsOf lists the fields of a struct in the order of encoding/json. It reports false for a struct that needs more of
// encoding/json's rules than are followed here.
func fieldsOf(t reflect.Type) ([]field, bool) {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" {
			if f.Type.Kind() != reflect.Struct || !f.IsExported() || isSpecial(f.Type) {
				return nil, false
			}
			inner, ok := fieldsOf(f.Type)
			if !ok {
				return nil, false
			}
			for _, in := range inner {
				in.offset += f.Offset
				all = append(all, in)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		one := field{name: name, typ: f.Type, offset: f.Offset}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "omitempty":
				one.omitEmpty = true
			case "omitzero":
				one.omitZero = true
			case "string":
				return nil, false
			}
		}
		all = append(all, one)
	}
	seen := map[string]bool{}
	for _, f := range all {
		if seen[f.name] || strings.ContainsAny(f.name, `"\<>&`) {
			return nil, false
		}
		seen[f.name] = true
	}
	return all, len(all) <= maxFields
}

// maxFields is how many fields of a struct a decoder can tick off.
const maxFields = 128

func isMarshaler(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

func isUnmarshaler(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Unmarshaler]()) || t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// isSpecial says that a type, or a pointer to it, has a JSON form of its own.
func isSpecial(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return isMarshaler(t) || isMarshaler(p) || isUnmarshaler(t) || isUnmarshaler(p)
}

// The types with a form of their own that are so common that they are written and read here.
func timeType() reflect.Type        { return reflect.TypeFor[metav1.Time]() }
func microTimeType() reflect.Type   { return reflect.TypeFor[metav1.MicroTime]() }
func quantityType() reflect.Type    { return reflect.TypeFor[resource.Quantity]() }
func intOrStringType() reflect.Type { return reflect.TypeFor[intstr.IntOrString]() }
func fieldsV1Type() reflect.Type    { return reflect.TypeFor[metav1.FieldsV1]() }

// pointerTo returns where the pointer obj points, and its type; false if it is no pointer or nil.
func pointerTo(obj any) (unsafe.Pointer, reflect.Type, bool) {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return nil, nil, false
	}
	return v.UnsafePointer(), v.Type().Elem(), true
}
