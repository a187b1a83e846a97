// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package merge applies JSON merge patches and strategic merge patches to Go objects in place, touching only what a
// patch names.
//
// What it does means the same as encoding the object, patching the JSON with the libraries for it and decoding the
// outcome, at a small part of the cost. What is rare it does not do, and says so: directives, null in maps that are not
// there yet, unknown or repeated fields, lists that are merged out of order. Those are for the libraries. Start with
// Patcher.Apply.
package merge

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// depthMax bounds how deep patches go that are applied here.
const depthMax = 64

// Patcher applies patches. The zero value is ready; it remembers what it learns of types.
type Patcher struct{ plans sync.Map }

// patching is one patch on its way.
type patching struct {
	*Patcher
	strategic bool
	gvk       schema.GroupVersionKind
	depth     int
}

// Apply changes obj, an object of kind gvk in the Go type of its kind, as a patch says: a JSON merge patch, or a
// strategic one. If it returns false the patch is one for the libraries, and obj is spoilt.
func (p *Patcher) Apply(strategic bool, gvk schema.GroupVersionKind, obj resource.Object, patch []byte) bool {
	v := reflect.ValueOf(obj)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct || custom(v.Type().Elem()) || !json.Valid(patch) {
		return false
	}
	at := patching{Patcher: p, strategic: strategic, gvk: gvk}
	return at.structure(v.Elem(), bytes.TrimSpace(patch))
}

// Within says that a patch names no fields of an object but metadata, status and its kind.
func Within(patch []byte) bool {
	if !json.Valid(patch) {
		return false
	}
	fields, ok := members(bytes.TrimSpace(patch))
	for i := range fields {
		switch string(fields[i].name) {
		case "metadata", "status", "kind", "apiVersion":
		default:
			return false
		}
	}
	return ok
}

// structure applies a patch to a structure.
func (p *patching) structure(v reflect.Value, patch []byte) bool {
	p.depth++
	defer func() { p.depth-- }()
	fields, ok := members(patch)
	if !ok || p.depth > depthMax {
		return false
	}
	known := p.plan(v.Type())
	for i := range fields {
		m := &fields[i]
		if list, isOrder := bytes.CutPrefix(m.name, []byte("$setElementOrder/")); isOrder && p.strategic && known.fields[string(list)] != nil {
			continue // when all is done
		}
		if p.depth == 1 && (string(m.name) == "kind" || string(m.name) == "apiVersion") {
			if !p.states(m) {
				return false
			}
			continue
		}
		f := known.fields[string(m.name)]
		if f == nil || p.strategic && f.strange {
			return false
		}
		if !p.value(v.FieldByIndex(f.index), f, m.value) {
			return false
		}
	}
	for i := range fields {
		if list, isOrder := bytes.CutPrefix(fields[i].name, []byte("$setElementOrder/")); isOrder {
			f := known.fields[string(list)]
			if f.key == "" || f.strange || !p.inOrder(v.FieldByIndex(f.index), f.key, fields[i].value) {
				return false
			}
		}
	}
	return true
}

// states says whether a patch gives an object the kind that it has.
func (p *patching) states(m *member) bool {
	text, ok := plainText(m.value)
	if string(m.name) == "kind" {
		return ok && text == p.gvk.Kind
	}
	return ok && text == p.gvk.GroupVersion().String()
}

// value applies a patch to a field or to an item of a list.
func (p *patching) value(v reflect.Value, f *field, patch []byte) bool {
	if isNull(patch) {
		v.SetZero()
		return true
	}
	if v.Kind() == reflect.Pointer {
		if custom(v.Type().Elem()) || v.Type().Elem().Kind() != reflect.Struct {
			to := reflect.New(v.Type().Elem())
			if !p.value(to.Elem(), f, patch) {
				return false
			}
			v.Set(to)
			return true
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if custom(v.Type()) {
		return own(v, patch)
	}
	switch v.Kind() {
	case reflect.Struct:
		return p.structure(v, patch)
	case reflect.Map:
		return p.dictionary(v, patch)
	case reflect.Slice:
		if patch[0] != '[' {
			return v.Type().Elem().Kind() == reflect.Uint8 && decoded(v, patch)
		}
		if p.strategic && f != nil && f.key != "" {
			return p.list(v, f.key, patch)
		}
		return decoded(v, patch)
	}
	return scalar(v, patch)
}

// own decodes a value that decodes itself from a string or a whole number.
func own(v reflect.Value, patch []byte) bool {
	if patch[0] != '"' {
		if _, ok := plainInteger(patch); !ok {
			return false
		}
	}
	return decoded(v, patch)
}

func scalar(v reflect.Value, patch []byte) bool {
	switch v.Kind() {
	case reflect.String:
		if text, ok := plainText(patch); ok {
			v.SetString(text)
			return true
		}
		return patch[0] == '"' && decoded(v, patch)
	case reflect.Bool:
		if patch[0] != 't' && patch[0] != 'f' {
			return false
		}
		v.SetBool(patch[0] == 't')
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := plainInteger(patch)
		if !ok || v.OverflowInt(n) {
			return false
		}
		v.SetInt(n)
		return true
	}
	return false
}

// decoded replaces a value by what is in the patch. Null within could mean something else in a patch.
func decoded(v reflect.Value, patch []byte) bool {
	if patch[0] == '[' && (bytes.Contains(patch, []byte("null")) || bytes.Contains(patch, []byte(`"$`))) {
		return false
	}
	to := reflect.New(v.Type())
	if !codec.DecodePlain(patch, to.Interface()) {
		strict, err := kjson.UnmarshalStrict(patch, to.Interface())
		if err != nil || len(strict) > 0 {
			return false
		}
	}
	v.Set(to.Elem())
	return true
}

// dictionary applies a patch to a map whose values are no objects and no lists.
func (p *patching) dictionary(v reflect.Value, patch []byte) bool {
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		return false
	}
	kind := t.Elem().Kind()
	if !custom(t.Elem()) && kind != reflect.String && (kind != reflect.Slice || t.Elem().Elem().Kind() != reflect.Uint8) {
		return false
	}
	fields, ok := members(patch)
	if !ok {
		return false
	}
	if v.IsNil() {
		v.Set(reflect.MakeMapWithSize(t, len(fields)))
	}
	fresh := v.Len() == 0
	for i := range fields {
		m := &fields[i]
		if !ascii(m.name) || len(m.name) > 0 && m.name[0] == '$' {
			return false
		}
		key := reflect.ValueOf(string(m.name)).Convert(t.Key())
		if isNull(m.value) {
			if fresh {
				return false
			}
			v.SetMapIndex(key, reflect.Value{})
			continue
		}
		to := reflect.New(t.Elem()).Elem()
		if !p.value(to, nil, m.value) {
			return false
		}
		v.SetMapIndex(key, to)
	}
	return true
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
