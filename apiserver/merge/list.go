// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package merge

import (
	"reflect"
)

// itemsMax bounds the lists that are merged here, where each item is looked for among all.
const itemsMax = 64

// list merges the items of a strategic patch into a list of structures by their key. Items that are there keep their
// place if the patch has them in the same order; new ones follow the last one if that is in the patch too.
func (p *patching) list(v reflect.Value, key string, patch []byte) bool {
	t := v.Type().Elem()
	items := elements(patch)
	if t.Kind() != reflect.Struct || custom(t) || len(items) > itemsMax || v.Len() > itemsMax {
		return false
	}
	f := p.plan(t).fields[key]
	if f == nil || f.strange || repeats(v, f) {
		return false
	}
	old, last := v.Len(), -1
	for _, item := range items {
		if item[0] != '{' {
			return false
		}
		fresh := reflect.New(t).Elem()
		if !p.keyOf(fresh.FieldByIndex(f.index), item, key) {
			return false
		}
		at := find(v, f, fresh.FieldByIndex(f.index))
		switch {
		case at >= old || at >= 0 && at <= last: // twice, or in another order
			return false
		case at >= 0:
			if v.Len() > old { // behind a new one
				return false
			}
			last = at
		default:
			if last < old-1 { // it would come before items that stay
				return false
			}
			v.Set(reflect.Append(v, reflect.Zero(t)))
			at = v.Len() - 1
		}
		if !p.structure(v.Index(at), item) {
			return false
		}
	}
	if len(items) == 0 && v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	return true
}

// keyOf sets a value to the key of an item.
func (p *patching) keyOf(v reflect.Value, item []byte, key string) bool {
	fields, ok := members(item)
	if !ok {
		return false
	}
	for i := range fields {
		if string(fields[i].name) == key {
			return !isNull(fields[i].value) && scalar(v, fields[i].value)
		}
	}
	return false
}

func find(list reflect.Value, f *field, key reflect.Value) int {
	for i := range list.Len() {
		if list.Index(i).FieldByIndex(f.index).Equal(key) {
			return i
		}
	}
	return -1
}

// repeats says whether items of a list share a key.
func repeats(list reflect.Value, f *field) bool {
	for i := range list.Len() {
		if find(list, f, list.Index(i).FieldByIndex(f.index)) < i {
			return true
		}
	}
	return false
}

// inOrder says whether a list already has exactly the order that a patch asks for.
func (p *patching) inOrder(list reflect.Value, key string, order []byte) bool {
	if len(order) == 0 || order[0] != '[' || list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Struct {
		return false
	}
	f := p.plan(list.Type().Elem()).fields[key]
	items := elements(order)
	if f == nil || len(items) != list.Len() || len(items) > itemsMax {
		return false
	}
	for i, item := range items {
		want := reflect.New(list.Type().Elem()).Elem().FieldByIndex(f.index)
		if item[0] != '{' || !p.keyOf(want, item, key) || !list.Index(i).FieldByIndex(f.index).Equal(want) {
			return false
		}
		if fields, ok := members(item); !ok || len(fields) != 1 {
			return false
		}
	}
	return true
}
