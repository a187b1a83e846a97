// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"reflect"
	"slices"
	"strconv"
	"sync"
	"unsafe"
)

// describer writes the set of what a new object has and an empty one has not, as encode would of their diff, in one go.
type describer struct {
	out, spare []byte
	parts      []part
	texts      []string
	gaveUp     bool
}

// part is where the description of one item lies: its element without the quotes, and all of it with the comma behind.
type part struct{ from, elemEnd, to int }

// describers are kept for the next object.
type describers struct{ pool sync.Pool }

func (d *describers) get() *describer {
	if have, ok := d.pool.Get().(*describer); ok {
		have.out, have.gaveUp = have.out[:0], false
		return have
	}
	return &describer{out: make([]byte, 0, 8<<10)}
}

// describeMax is how large a describer may be to be kept.
const describeMax = 64 << 10

func (d *describers) put(used *describer) {
	clear(used.texts)
	used.texts = used.texts[:0]
	if cap(used.out)+cap(used.spare) <= describeMax {
		d.pool.Put(used)
	}
}

// describe writes the set of after, an object, beside before, an empty one. Nothing is written if the set is empty.
func (d *describer) describe(p *plan, before, after reflect.Value) {
	if p == nil || p.form != object {
		d.gaveUp = true
		return
	}
	before, after = p.shape.deref(before), p.shape.deref(after)
	if !before.IsValid() || !after.IsValid() {
		d.gaveUp = true
		return
	}
	start := d.open()
	d.body(p, before, after)
	d.close(start, start+1, false)
}

func (d *describer) open() int {
	d.out = append(d.out, '{')
	return len(d.out) - 1
}

// close ends what began at start, of which body is empty unless more follows; an empty one stays only if member.
func (d *describer) close(start, body int, member bool) bool {
	if len(d.out) > body {
		d.out[len(d.out)-1] = '}' // the comma
		return true
	}
	d.out = d.out[:start]
	if member {
		d.out = append(d.out, '{', '}')
	}
	return member
}

// child writes a value with the comma behind it, or nothing if it is as before; its name, in quotes and with a colon, begins at
// start and has been written.
func (d *describer) child(start int, p *plan, before, after reflect.Value) {
	if p == nil || p.form == strange {
		d.gaveUp = true
		return
	}
	if p.form == leaf {
		if before.IsValid() && p.shape.same(before, after) {
			d.out = d.out[:start]
			return
		}
		d.out = append(d.out, '{', '}', ',')
		return
	}
	x, y := before, after
	if x.IsValid() {
		x = p.shape.deref(x)
	}
	if y.IsValid() {
		y = p.shape.deref(y)
	}
	added := !before.IsValid()
	if !added && x.IsValid() != y.IsValid() { // null is not the same as empty
		if p.form == object {
			d.gaveUp = true
			return
		}
		added = length(x) == 0 && length(y) == 0
	}
	from := d.open()
	body := from + 1
	if added {
		d.out = append(d.out, `".":{},`...)
		body = len(d.out)
	}
	d.body(p, x, y)
	if d.close(from, body, added) {
		d.out = append(d.out, ',')
	} else {
		d.out = d.out[:start]
	}
}

// body writes what is in a value.
func (d *describer) body(p *plan, before, after reflect.Value) {
	switch p.form {
	case object:
		d.objects(p, before, after)
	case mapping:
		if length(before) > 0 {
			d.gaveUp = true
		} else if length(after) > 0 {
			d.mapping(p, after)
		}
	default:
		if length(before) > 0 {
			d.gaveUp = true
		} else if length(after) > 0 {
			d.list(p, after)
		}
	}
}

func (d *describer) objects(p *plan, before, after reflect.Value) {
	for i := range p.fields {
		f := &p.fields[i]
		y := f.get(after)
		if !y.IsValid() {
			continue
		}
		start := len(d.out)
		d.out = append(d.out, '"')
		d.out = append(d.out, f.elem...)
		d.out = append(d.out, '"', ':')
		d.child(start, f.plan, f.get(before), y)
		if d.gaveUp {
			return
		}
	}
}

// mapping writes a map that was empty.
func (d *describer) mapping(p *plan, after reflect.Value) {
	mark := len(d.texts)
	texts, isText := textsOf(after)
	for key := range texts {
		d.texts = append(d.texts, key)
	}
	if !isText {
		for iter := after.MapRange(); iter.Next(); {
			d.texts = append(d.texts, iter.Key().String())
		}
	}
	keys := d.texts[mark:]
	slices.Sort(keys)
	for _, key := range keys {
		if !plain(key) {
			d.gaveUp = true
		}
		start := len(d.out)
		d.out = append(d.out, `"f:`...)
		d.out = append(d.out, key...)
		d.out = append(d.out, '"', ':')
		switch {
		case p.elem != nil && p.elem.form == leaf:
			d.out = append(d.out, '{', '}', ',')
		default:
			d.child(start, p.elem, reflect.Value{}, after.MapIndex(reflect.ValueOf(key).Convert(after.Type().Key())))
		}
		if d.gaveUp {
			return
		}
	}
	d.texts = d.texts[:mark]
}

// textsOf is a map of strings as what it is.
func textsOf(v reflect.Value) (map[string]string, bool) {
	if v.Type() != reflect.TypeFor[map[string]string]() {
		return nil, false
	}
	if v.CanAddr() {
		return *v.Addr().Interface().(*map[string]string), true
	}
	m, ok := v.Interface().(map[string]string)
	return m, ok
}

// list writes a list that was empty, in the order of elements.
func (d *describer) list(p *plan, after reflect.Value) {
	mark := len(d.parts)
	for i := range after.Len() {
		item := after.Index(i)
		here := part{from: len(d.out)}
		d.out = append(d.out, '"')
		d.element(p, item)
		here.elemEnd = len(d.out)
		d.out = append(d.out, '"', ':')
		d.child(here.from, p.elem, reflect.Value{}, item)
		if d.gaveUp {
			return
		}
		here.to = len(d.out)
		d.parts = append(d.parts, here)
	}
	d.sort(mark)
	d.parts = d.parts[:mark]
}

// sort brings the parts from mark on into the order of their elements; two with the same element are a case for the library.
func (d *describer) sort(mark int) {
	parts := d.parts[mark:]
	elem := func(p part) string { return unsafe.String(&d.out[p.from+1], p.elemEnd-p.from-1) } // until out changes
	sorted := true
	for i := 1; i < len(parts) && sorted; i++ {
		switch c := order(elem(parts[i-1]), elem(parts[i])); {
		case c == 0:
			d.gaveUp = true
			return
		case c > 0:
			sorted = false
		}
	}
	if sorted {
		return
	}
	from := parts[0].from
	slices.SortFunc(parts, func(a, b part) int { return order(elem(a), elem(b)) })
	d.spare = d.spare[:0]
	for i, p := range parts {
		if i > 0 && elem(parts[i-1]) == elem(p) {
			d.gaveUp = true
			return
		}
		d.spare = append(d.spare, d.out[p.from:p.to]...)
	}
	copy(d.out[from:], d.spare)
}

// element writes what names an item of a list: its keys, or its value.
func (d *describer) element(p *plan, item reflect.Value) {
	if p.form == set {
		d.out = append(d.out, 'v', ':')
		d.scalar(p.elem.shape, item)
		return
	}
	d.out = append(d.out, 'k', ':', '{')
	some := false
	for i := range p.keys {
		key := &p.keys[i]
		v := key.get(item)
		if !v.IsValid() && key.missing == "" {
			continue
		}
		if some {
			d.out = append(d.out, ',')
		}
		some = true
		d.out = append(d.out, '\\', '"')
		d.out = append(d.out, key.name...)
		d.out = append(d.out, '\\', '"', ':')
		if v.IsValid() {
			d.scalar(key.shape, v)
		} else {
			d.out = append(d.out, key.missing...)
		}
	}
	if !some {
		d.gaveUp = true
	}
	d.out = append(d.out, '}')
}

// scalar writes a key or value.
func (d *describer) scalar(sh *shape, v reflect.Value) {
	if sh.basic != custom {
		v = sh.deref(v)
	}
	if v.IsValid() {
		switch sh.basic {
		case text:
			s := v.String()
			if !plain(s) {
				d.gaveUp = true
			}
			d.out = append(d.out, '\\', '"')
			d.out = append(d.out, s...)
			d.out = append(d.out, '\\', '"')
			return
		case integer:
			d.out = strconv.AppendInt(d.out, v.Int(), 10)
			return
		}
	}
	d.gaveUp = true
}
