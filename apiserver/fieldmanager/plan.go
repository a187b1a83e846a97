// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"reflect"
	"slices"
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"knarr.dev/api/resource"
)

// form is how the merge schema wants a value compared.
type form uint8

const (
	leaf    form = iota // as a whole: scalars, atomic lists and maps
	object              // a structure, field by field
	mapping             // a map, key by key
	keyed               // a list, items found by their keys
	set                 // a list of values
	strange             // in a way that only the library knows
)

// plan is how to compare two values of a Go type: its shape with its merge schema, and without what no one owns.
type plan struct {
	form   form
	shape  *shape
	fields []planField // of an object, in the order of names
	elem   *plan       // of the others
	keys   []planKey   // of a keyed list, in the order of names
	memory *resource.Comparer
}

type planField struct {
	*shapeField
	elem string // f:NAME
	plan *plan  // nil: not in the schema
}

type planKey struct {
	*shapeField
	missing string // the encoded value of an item that lacks the key; empty: none
}

// planner makes plans. Those of types that kinds have in common are shared.
type planner struct {
	mu     sync.Mutex
	schema *definitions
	shapes shapes
	plans  map[planID]*plan
	memory resource.Comparers
}

type planID struct {
	t    reflect.Type
	name string
	how  schema.ElementRelationship
}

// of is the plan for values of a type under a reference of the schema.
func (p *planner) of(t reflect.Type, ref schema.TypeRef) *plan {
	var id planID
	if ref.NamedType != nil {
		id = planID{t: t, name: *ref.NamedType}
		if ref.ElementRelationship != nil {
			id.how = *ref.ElementRelationship
		}
		if made := p.plans[id]; made != nil {
			return made
		}
	}
	out := &plan{form: strange, shape: p.shapes.of(t)}
	switch t.Kind() {
	case reflect.Pointer, reflect.Struct, reflect.Slice, reflect.Map:
		out.memory = p.memory.Of(t)
	}
	if id.name != "" {
		p.plans[id] = out
	}
	atom, ok := p.schema.resolve(ref)
	if !ok || out.shape == nil {
		return out
	}
	p.fill(out, t, atom)
	if out.form == leaf && out.shape.partial {
		out.form = strange
	}
	return out
}

func (p *planner) fill(out *plan, t reflect.Type, atom schema.Atom) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch out.shape.basic {
	case custom:
		granular := atom.Map != nil && atom.Map.ElementRelationship != schema.Atomic ||
			atom.List != nil && atom.List.ElementRelationship != schema.Atomic
		if !granular {
			out.form = leaf
		}
	case boolean, integer, unsigned, float, text, base64Bytes:
		if atom.Scalar != nil {
			out.form = leaf
		}
	case list:
		p.fillList(out, t, atom.List)
	case dictionary:
		if atom.Map == nil {
			return
		}
		if out.form = mapping; atom.Map.ElementRelationship == schema.Atomic {
			out.form = leaf
			return
		}
		if t.Key().Kind() != reflect.String || len(atom.Map.Fields) > 0 {
			out.form = strange
			return
		}
		out.elem = p.of(t.Elem(), atom.Map.ElementType)
	case structure:
		if atom.Map == nil {
			return
		}
		if out.form = object; atom.Map.ElementRelationship == schema.Atomic {
			out.form = leaf
			return
		}
		for i := range out.shape.fields {
			f := &out.shape.fields[i]
			field := planField{shapeField: f, elem: "f:" + f.name}
			if sf, ok := atom.Map.FindField(f.name); ok && f.shape != nil {
				field.plan = p.of(t.FieldByIndex(f.index).Type, sf.Type)
			}
			out.fields = append(out.fields, field)
		}
	}
}

func (p *planner) fillList(out *plan, t reflect.Type, l *schema.List) {
	if l == nil {
		return
	}
	if l.ElementRelationship != schema.Associative {
		out.form = leaf
		return
	}
	out.elem = p.of(t.Elem(), l.ElementType)
	if len(l.Keys) == 0 {
		if b := out.elem.shape; b != nil && !b.pointer && (b.basic == text || b.basic == integer) {
			out.form = set
		}
		return
	}
	if out.elem.shape == nil || out.elem.shape.basic != structure || out.elem.shape.pointer {
		return
	}
	item, ok := p.schema.resolve(l.ElementType)
	if !ok || item.Map == nil {
		return
	}
	for _, name := range slices.Sorted(slices.Values(l.Keys)) {
		i := slices.IndexFunc(out.elem.shape.fields, func(f shapeField) bool { return f.name == name })
		if i < 0 {
			return
		}
		key := planKey{shapeField: &out.elem.shape.fields[i]}
		if f, ok := item.Map.FindField(name); ok && f.Default != nil {
			encoded, ok := encodeDefault(f.Default)
			if !ok {
				return
			}
			key.missing = encoded
		}
		out.keys = append(out.keys, key)
	}
	out.form = keyed
}

func encodeDefault(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return encodeText(v)
	case int:
		return encodeInteger(int64(v)), true
	case int64:
		return encodeInteger(v), true
	}
	return "", false
}

// unowned are the fields of metadata that no one owns.
func unowned(name string) bool {
	switch name {
	case "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion":
		return true
	}
	return false
}

// root is the plan for objects of a type, without fields that no one owns and those below except, paths of names.
func (p *planner) root(t reflect.Type, name string, except [][]string) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.schema == nil {
		p.schema, p.shapes, p.plans = newDefinitions(), shapes{}, map[planID]*plan{}
	}
	full := p.of(t, schema.TypeRef{NamedType: &name})
	if full.form != object {
		return full
	}
	return full.without(append([][]string{{"apiVersion"}, {"kind"}}, except...), true)
}

// without is a copy that leaves out what lies at paths.
func (pl *plan) without(paths [][]string, top bool) *plan {
	out := *pl
	out.fields = nil
	for _, f := range pl.fields {
		var below [][]string
		drop := false
		for _, path := range paths {
			if path[0] != f.name {
				continue
			}
			if len(path) == 1 {
				drop = true
			} else {
				below = append(below, path[1:])
			}
		}
		if drop {
			continue
		}
		if top && f.name == "metadata" && f.plan != nil {
			for _, m := range f.plan.fields {
				if unowned(m.name) {
					below = append(below, []string{m.name})
				}
			}
		}
		if len(below) > 0 && f.plan != nil && f.plan.form == object {
			f.plan = f.plan.without(below, false)
		}
		out.fields = append(out.fields, f)
	}
	return &out
}
