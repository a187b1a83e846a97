// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package merge

import (
	"encoding/json"
	"reflect"
	"strings"
)

// plan is what is known of a structure: its fields by their names in JSON.
type plan struct{ fields map[string]*field }

type field struct {
	index []int
	// key is the merge key of a list that strategic patches merge.
	key string
	// strange says that strategic patches treat the field as is not done here.
	strange bool
}

func (p *Patcher) plan(t reflect.Type) *plan {
	if known, ok := p.plans.Load(t); ok {
		return known.(*plan)
	}
	made := &plan{fields: map[string]*field{}}
	made.add(t, nil)
	known, _ := p.plans.LoadOrStore(t, made)
	return known.(*plan)
}

func (p *plan) add(t reflect.Type, path []int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(path[:len(path):len(path)], i)
		if name == "" && f.Type.Kind() == reflect.Struct && (f.Anonymous || strings.Contains(options, "inline")) {
			p.add(f.Type, index)
			continue
		}
		if name == "" || name == "-" || strings.Contains(options, "string") {
			continue // what is not known here is left to the library
		}
		made := &field{index: index}
		switch strategy, key := f.Tag.Get("patchStrategy"), f.Tag.Get("patchMergeKey"); {
		case strategy == "merge" && key != "":
			made.key = key
		case strategy != "":
			made.strange = true
		}
		if p.fields[name] != nil {
			made.strange = true
		}
		p.fields[name] = made
	}
}

// custom says that a type decodes itself.
func custom(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}
