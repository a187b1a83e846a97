// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The numbers are those of Schema in openapiv3 and openapiv2 of github.com/google/gnostic-models.

func (w *wire) limits3(l *limits) {
	w.bool(1, l.nullable)
	if l.docs != nil {
		w.message(6, func() {
			w.string(1, l.docs.Description)
			w.string(2, l.docs.URL)
		})
	}
	if l.example != "" {
		w.any(7, l.example)
	}
	w.string(9, l.title)
	w.values(10, l)
	for _, v := range l.enum {
		w.any(24, v)
	}
	for i, list := range [][]*schema{l.allOf, l.oneOf, l.anyOf} {
		for _, s := range list {
			w.message(protowire.Number(26+i), func() { w.schema3(s, nil) })
		}
	}
	if l.not != nil {
		var inner wire
		inner.schema3(l.not, nil) // a SchemaOrReference: only the schema in it is wanted
		_, _, tag := protowire.ConsumeTag(inner.b)
		if content, n := protowire.ConsumeBytes(inner.b[max(tag, 0):]); n > 0 {
			w.message(29, func() { w.b = append(w.b, content...) })
		}
	}
}

func (w *wire) limits2(l *limits) {
	w.string(3, l.title)
	w.values(6, l)
	for _, v := range l.enum {
		w.any(20, v)
	}
	if l.anyValues {
		w.message(21, func() { w.bool(2, true) })
	}
	if l.docs != nil {
		w.message(29, func() {
			w.string(1, l.docs.Description)
			w.string(2, l.docs.URL)
		})
	}
	if l.example != "" {
		w.any(30, l.example)
	}
}

// values writes the bounds of values, which follow each other in both versions from a first number.
func (w *wire) values(first protowire.Number, l *limits) {
	double := func(field protowire.Number, v *float64) {
		if v != nil && *v != 0 {
			w.b = protowire.AppendTag(w.b, field, protowire.Fixed64Type)
			w.b = protowire.AppendFixed64(w.b, math.Float64bits(*v))
		}
	}
	whole := func(field protowire.Number, v *int64) {
		if v != nil && *v != 0 {
			w.b = protowire.AppendTag(w.b, field, protowire.VarintType)
			w.b = protowire.AppendVarint(w.b, uint64(*v))
		}
	}
	double(first, l.multipleOf)
	double(first+1, l.maximum)
	w.bool(first+2, l.exclusiveMaximum)
	double(first+3, l.minimum)
	w.bool(first+4, l.exclusiveMinimum)
	whole(first+5, l.maxLength)
	whole(first+6, l.minLength)
	w.string(first+7, l.pattern)
	whole(first+8, l.maxItems)
	whole(first+9, l.minItems)
	w.bool(first+10, l.uniqueItems)
	whole(first+11, l.maxProperties)
	whole(first+12, l.minProperties)
}
