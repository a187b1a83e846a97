// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"reflect"
	"slices"
	"strings"

	"knarr.dev/api/resource"
)

// mark says what became of a field.
type mark uint8

const (
	kept mark = iota
	put       // added or modified
	gone
)

// change is a field that changed, or below which fields changed. A list of changes is in the order of elements.
type change struct {
	elem  string // as in managedFields, such as f:spec, without the quotes of JSON but with its escapes
	mark  mark
	below []change
}

// diff compares values. It gives up on what is rare: then the library has to do the work.
type diff struct{ gaveUp bool }

func (d *diff) giveUp() (mark, []change) {
	d.gaveUp = true
	return kept, nil
}

// compare tells what became of a value and of what is in it. Invalid values are absent.
func (d *diff) compare(p *plan, before, after reflect.Value) (mark, []change) {
	if !before.IsValid() && !after.IsValid() {
		return kept, nil
	}
	if p == nil {
		return d.giveUp()
	}
	if p.memory != nil && before.IsValid() && after.IsValid() && before.CanAddr() && after.CanAddr() &&
		p.memory.CompareAt(before.Addr(), after.Addr()) == resource.Same {
		return kept, nil
	}
	if p.form == strange {
		return d.giveUp()
	}
	if p.form == leaf {
		return p.asLeaf(before, after), nil
	}
	x, y := before, after
	if x.IsValid() {
		x = p.shape.deref(x)
	}
	if y.IsValid() {
		y = p.shape.deref(y)
	}
	var below []change
	var empty bool
	switch p.form {
	case object:
		below, empty = d.objects(p, x, y)
	case mapping:
		below, empty = d.mappings(p, x, y)
	default:
		if empty = length(x) == 0 && length(y) == 0; !empty {
			below = d.lists(p, x, y)
		}
	}
	switch {
	case !before.IsValid():
		return put, below
	case !after.IsValid():
		return gone, below
	case empty && x.IsValid() != y.IsValid():
		return put, below // null is not the same as empty
	}
	return kept, below
}

func (p *plan) asLeaf(before, after reflect.Value) mark {
	switch {
	case !before.IsValid():
		return put
	case !after.IsValid():
		return gone
	case p.shape.same(before, after):
		return kept
	}
	return put
}

func length(v reflect.Value) int {
	if !v.IsValid() {
		return 0
	}
	return v.Len()
}

// objects compares structures. empty says that neither has a field.
func (d *diff) objects(p *plan, before, after reflect.Value) (below []change, empty bool) {
	empty = true
	for i := range p.fields {
		f := &p.fields[i]
		x, y := f.get(before), f.get(after)
		if !x.IsValid() && !y.IsValid() {
			continue
		}
		empty = false
		if m, under := d.compare(f.plan, x, y); m != kept || len(under) > 0 {
			below = append(below, change{f.elem, m, under})
		}
	}
	return below, empty
}

// mappings compares maps. empty says that neither has a key.
func (d *diff) mappings(p *plan, before, after reflect.Value) (below []change, empty bool) {
	if length(before) == 0 && length(after) == 0 {
		return nil, true
	}
	add := func(key string, m mark, under []change) {
		if m == kept && len(under) == 0 {
			return
		}
		if !plain(key) {
			d.gaveUp = true
		}
		below = append(below, change{"f:" + key, m, under})
	}
	if p.elem.form == leaf && p.elem.shape.basic == text && !p.elem.shape.pointer {
		if x, y, ok := stringMaps(before, after); ok {
			for key, v := range y {
				if old, was := x[key]; !was || old != v {
					add(key, put, nil)
				}
			}
			for key := range x {
				if _, is := y[key]; !is {
					add(key, gone, nil)
				}
			}
			return inOrder(below), false
		}
	}
	if after.IsValid() {
		for iter := after.MapRange(); iter.Next(); {
			var old reflect.Value
			if before.IsValid() {
				old = before.MapIndex(iter.Key())
			}
			m, under := d.compare(p.elem, old, iter.Value())
			add(iter.Key().String(), m, under)
		}
	}
	if before.IsValid() {
		for iter := before.MapRange(); iter.Next(); {
			if after.IsValid() && after.MapIndex(iter.Key()).IsValid() {
				continue
			}
			m, under := d.compare(p.elem, iter.Value(), reflect.Value{})
			add(iter.Key().String(), m, under)
		}
	}
	return inOrder(below), false
}

func stringMaps(before, after reflect.Value) (x, y map[string]string, ok bool) {
	ok = true
	if before.IsValid() {
		x, ok = before.Interface().(map[string]string)
	}
	if after.IsValid() && ok {
		y, ok = after.Interface().(map[string]string)
	}
	return x, y, ok
}

// inOrder sorts changes by their elements.
func inOrder(changes []change) []change {
	if len(changes) > 1 {
		slices.SortFunc(changes, func(a, b change) int { return order(a.elem, b.elem) })
	}
	return changes
}

// lists compares lists whose items have keys or are values.
func (d *diff) lists(p *plan, before, after reflect.Value) []change {
	var below []change
	n, m := length(before), length(after)
	if n == m && d.alignedItems(p, before, after) {
		if p.form == set {
			return nil
		}
		for i := range n {
			k, under := d.compare(p.elem, before.Index(i), after.Index(i))
			if k != kept || len(under) > 0 {
				below = append(below, change{d.element(p, after.Index(i)), k, under})
			}
		}
		if len(below) > 0 && d.repeats(d.elements(p, after)) {
			d.gaveUp = true
		}
		return inOrder(below)
	}
	old, fresh := d.elements(p, before), d.elements(p, after)
	if d.repeats(old) || d.repeats(fresh) {
		d.gaveUp = true
		return nil
	}
	for i, elem := range fresh {
		var x reflect.Value
		if j := slices.Index(old, elem); j >= 0 {
			x = before.Index(j)
		}
		if k, under := d.compare(p.elem, x, after.Index(i)); k != kept || len(under) > 0 {
			below = append(below, change{elem, k, under})
		}
	}
	for j, elem := range old {
		if !slices.Contains(fresh, elem) {
			k, under := d.compare(p.elem, before.Index(j), reflect.Value{})
			below = append(below, change{elem, k, under})
		}
	}
	return inOrder(below)
}

// alignedItems says whether two lists of one length have the same keys, or values, in the same order.
func (d *diff) alignedItems(p *plan, before, after reflect.Value) bool {
	for i := range before.Len() {
		x, y := before.Index(i), after.Index(i)
		if p.form == set {
			if !p.elem.shape.same(x, y) {
				return false
			}
			continue
		}
		for k := range p.keys {
			f := p.keys[k].shapeField
			a, b := f.get(x), f.get(y)
			if a.IsValid() != b.IsValid() || a.IsValid() && !f.shape.same(a, b) {
				return false
			}
		}
	}
	return true
}

func (d *diff) elements(p *plan, l reflect.Value) []string {
	out := make([]string, length(l))
	for i := range out {
		out[i] = d.element(p, l.Index(i))
	}
	return out
}

// manyItems is from where on searching a list for repeats takes a map.
const manyItems = 16

func (d *diff) repeats(elements []string) bool {
	if len(elements) > manyItems {
		seen := make(map[string]bool, len(elements))
		for _, e := range elements {
			if seen[e] {
				return true
			}
			seen[e] = true
		}
		return false
	}
	for i, e := range elements {
		if slices.Contains(elements[:i], e) {
			return true
		}
	}
	return false
}

// element names an item of a list: by its keys, or as its value.
func (d *diff) element(p *plan, item reflect.Value) string {
	if p.form == set {
		return "v:" + d.scalar(p.elem.shape, item)
	}
	var b strings.Builder
	b.WriteString("k:{")
	some := false
	for i := range p.keys {
		key := &p.keys[i]
		encoded := key.missing
		if v := key.get(item); v.IsValid() {
			encoded = d.scalar(key.shape, v)
		}
		if encoded == "" {
			continue
		}
		if some {
			b.WriteByte(',')
		}
		some = true
		b.WriteString(`\"`)
		b.WriteString(key.name)
		b.WriteString(`\":`)
		b.WriteString(encoded)
	}
	if !some {
		d.gaveUp = true
	}
	b.WriteByte('}')
	return b.String()
}

// scalar encodes a key or value.
func (d *diff) scalar(sh *shape, v reflect.Value) string {
	if sh.basic != custom {
		v = sh.deref(v)
	}
	if v.IsValid() {
		switch sh.basic {
		case text:
			if encoded, ok := encodeText(v.String()); ok {
				return encoded
			}
		case integer:
			return encodeInteger(v.Int())
		}
	}
	d.gaveUp = true
	return ""
}
