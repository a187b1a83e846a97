// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"
)

// wire writes protobuf messages as github.com/google/gnostic-models declares them in OpenAPIv2.proto and
// OpenAPIv3.proto. The numbers of fields are those of these files, named where they are used.
type wire struct{ b []byte }

func (w *wire) string(field protowire.Number, s string) {
	if s != "" {
		w.text(field, s)
	}
}

// text writes a string even if it is empty, as in lists and choices.
func (w *wire) text(field protowire.Number, s string) {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	w.b = protowire.AppendString(w.b, s)
}

func (w *wire) strings(field protowire.Number, list []string) {
	for _, s := range list {
		w.text(field, s)
	}
}

func (w *wire) bool(field protowire.Number, v bool) {
	if v {
		w.b = protowire.AppendTag(w.b, field, protowire.VarintType)
		w.b = protowire.AppendVarint(w.b, 1)
	}
}

// message writes an embedded message; its length goes before it once it is known.
func (w *wire) message(field protowire.Number, write func()) {
	w.b = protowire.AppendTag(w.b, field, protowire.BytesType)
	start := len(w.b)
	write()
	size := len(w.b) - start
	var length [10]byte
	prefix := protowire.AppendVarint(length[:0], uint64(size))
	w.b = append(w.b, prefix...)
	copy(w.b[start+len(prefix):], w.b[start:start+size])
	copy(w.b[start:], prefix)
}

// named writes a Named message, {name, value}, in which value is a message.
func (w *wire) named(field protowire.Number, name string, write func()) {
	w.message(field, func() {
		w.string(1, name)
		w.message(2, write)
	})
}

// any writes an Any, whose field yaml has the value.
func (w *wire) any(field protowire.Number, value string) {
	w.message(field, func() { w.text(2, value+"\n") })
}

func (w *wire) extension(field protowire.Number, name, value string) {
	w.message(field, func() {
		w.string(1, name)
		w.any(2, value)
	})
}

func (w *wire) extensions(field protowire.Number, s *schema, kinds []gvks.GroupVersionKind) {
	for _, e := range s.extensions {
		w.extension(field, e.name, e.value)
	}
	if len(kinds) > 0 {
		var list writer
		list.open('[')
		for _, k := range kinds {
			list.kind(k)
		}
		list.close(']')
		w.extension(field, "x-kubernetes-group-version-kind", string(list.b))
	}
}

func (w *wire) operationKind(field protowire.Number, op operation) {
	if op.action != "" {
		w.extension(field, "x-kubernetes-action", op.action)
	}
	if op.gvk != nil {
		var one writer
		one.kind(*op.gvk)
		w.extension(field, "x-kubernetes-group-version-kind", string(one.b))
	}
}

// proto3 writes a document of v3, reusing the memory of b.
func (o outline) proto3(b []byte) []byte {
	w := &wire{b[:0]}
	w.string(1, "3.0.0")  // openapi
	w.message(2, func() { // info
		w.string(1, "Kubernetes")
		w.string(6, "1.36")
	})
	w.message(4, func() { // paths
		for _, p := range o.paths {
			w.named(1, p.name, func() { w.path3(p) })
		}
	})
	w.message(5, func() { // components
		if len(o.definitions) > 0 {
			w.message(1, func() {
				for _, name := range o.definitions {
					w.named(1, name, func() {
						w.schema3(o.models.get(name).schema, o.models.kindsOf(name, o.about))
					})
				}
			})
		}
		w.message(7, func() { // security schemes
			w.named(1, "BearerToken", func() {
				w.message(1, func() {
					w.string(1, "apiKey")
					w.string(2, "Bearer Token authentication")
					w.string(3, "authorization")
					w.string(4, "header")
				})
			})
		})
	})
	return w.b
}

func (w *wire) path3(p path) {
	methods := map[string]protowire.Number{"get": 4, "put": 5, "post": 6, "delete": 7, "options": 8, "head": 9, "patch": 10}
	for _, op := range p.operations {
		w.message(methods[op.method], func() { w.operation3(op) })
	}
	for _, q := range p.shared {
		w.message(13, func() { w.message(1, func() { w.parameter3(q) }) })
	}
}

func (w *wire) operation3(op operation) {
	w.text(1, op.tag)
	w.string(3, op.description)
	w.string(5, op.id)
	for _, q := range op.parameters {
		w.message(6, func() { w.message(1, func() { w.parameter3(q) }) })
	}
	if op.body != "" {
		w.message(7, func() {
			w.message(1, func() {
				w.content3(2, op.consumes, op.body)
				w.bool(3, op.bodyRequired)
			})
		})
	}
	w.message(8, func() {
		for _, r := range op.responses {
			w.named(2, r.code, func() {
				w.message(1, func() {
					w.string(1, r.description)
					if r.model != "" || r.text {
						w.content3(3, op.produces, r.model)
					}
				})
			})
		}
	})
	w.operationKind(13, op)
}

func (w *wire) content3(field protowire.Number, media []string, model string) {
	body := &schema{ref: model}
	if model == "" {
		body.typ = "string"
	}
	w.message(field, func() {
		for _, m := range slices.Sorted(slices.Values(media)) {
			w.named(1, m, func() { w.message(1, func() { w.schema3(body, nil) }) })
		}
	})
}

func (w *wire) parameter3(p parameter) {
	w.string(1, p.name)
	w.string(2, p.in)
	w.string(3, p.description)
	w.bool(4, p.required)
	w.message(10, func() {
		w.message(1, func() {
			w.bool(20, true) // unique items
			w.string(25, p.typ)
		})
	})
}

// schema3 writes a SchemaOrReference.
func (w *wire) schema3(s *schema, kinds []gvks.GroupVersionKind) {
	if s.plainRef() {
		w.reference3(s.ref)
		return
	}
	w.message(1, func() {
		if s.limits != nil {
			w.limits3(s.limits)
		}
		w.strings(23, s.required)
		for _, v := range s.enum {
			w.any(24, strconv.Quote(v))
		}
		if len(s.oneOf) == 0 {
			w.string(25, s.typ)
		}
		if s.ref != "" {
			w.message(26, func() { w.reference3(s.ref) }) // all of
		}
		for _, t := range s.oneOf {
			w.message(27, func() { w.schema3(&schema{typ: t}, nil) })
		}
		if s.items != nil {
			w.message(30, func() { w.message(1, func() { w.schema3(s.items, nil) }) })
		}
		if len(s.properties) > 0 {
			w.message(31, func() {
				for _, p := range s.properties {
					w.named(1, p.name, func() { w.schema3(p.schema, nil) })
				}
			})
		}
		if s.values != nil {
			w.message(32, func() { w.message(1, func() { w.schema3(s.values, nil) }) })
		}
		if s.values == nil && s.limits != nil && s.limits.anyValues {
			w.message(32, func() { w.bool(2, true) })
		}
		w.default3(s.defaultValue)
		w.string(34, s.description)
		w.string(35, s.format)
		w.extensions(36, s, kinds)
	})
}

func (w *wire) reference3(name string) {
	w.message(2, func() { w.string(1, "#/components/schemas/"+name) })
}

// default3 writes a DefaultType, which has room for simple values only; others are there and empty.
func (w *wire) default3(value string) {
	var v any
	if value == "" || json.Unmarshal([]byte(value), &v) != nil {
		return
	}
	w.message(33, func() {
		switch v := v.(type) {
		case float64:
			w.b = protowire.AppendTag(w.b, 1, protowire.Fixed64Type)
			w.b = protowire.AppendFixed64(w.b, math.Float64bits(v))
		case bool:
			w.b = protowire.AppendTag(w.b, 2, protowire.VarintType)
			w.b = protowire.AppendVarint(w.b, protowire.EncodeBool(v))
		case string:
			w.text(3, v)
		}
	})
}

// proto2 writes the document of v2, reusing the memory of b.
func (o outline) proto2(b []byte) []byte {
	w := &wire{b[:0]}
	w.string(1, "2.0")    // swagger
	w.message(2, func() { // info
		w.string(1, "Kubernetes")
		w.string(2, "1.36")
	})
	shared := &sharedParameters{byName: map[string]parameter{}}
	w.message(8, func() { // paths
		for _, p := range o.paths {
			w.named(2, p.name, func() { w.path2(p, shared) })
		}
	})
	w.message(9, func() { // definitions
		for _, name := range o.definitions {
			w.named(1, name, func() { w.schema2(o.models.get(name).schema, o.models.kindsOf(name, o.about)) })
		}
	})
	w.message(10, func() { // parameters
		for _, name := range slices.Sorted(maps.Keys(shared.byName)) {
			if o.foreign.parameters[name] == nil {
				w.named(1, name, func() { w.plainParameter2(shared.byName[name]) })
			}
		}
	})
	w.message(12, func() { // security
		w.named(1, "BearerToken", func() {})
	})
	w.message(13, func() { // security definitions
		w.named(1, "BearerToken", func() {
			w.message(2, func() {
				w.string(1, "apiKey")
				w.string(2, "authorization")
				w.string(3, "header")
				w.string(4, "Bearer Token authentication")
			})
		})
	})
	return append(w.b, o.foreign.proto()...)
}

func (w *wire) path2(p path, shared *sharedParameters) {
	methods := map[string]protowire.Number{"get": 2, "put": 3, "post": 4, "delete": 5, "options": 6, "head": 7, "patch": 8}
	for _, op := range p.operations {
		w.message(methods[op.method], func() { w.operation2(op, shared) })
	}
	for _, q := range p.shared {
		w.parameter2(9, q, shared)
	}
}

func (w *wire) operation2(op operation, shared *sharedParameters) {
	w.text(1, op.tag)
	w.string(3, op.description)
	w.string(5, op.id)
	w.strings(6, op.produces)
	w.strings(7, op.consumes)
	if op.body != "" {
		w.parameter2(8, bodyParameter(op), shared)
	}
	for _, q := range op.parameters {
		w.parameter2(8, q, shared)
	}
	w.message(9, func() {
		for _, r := range op.responses {
			w.named(1, r.code, func() {
				w.message(1, func() {
					w.string(1, r.description)
					if r.model != "" || r.text {
						w.message(2, func() { w.message(1, func() { w.body2(r.model) }) })
					}
				})
			})
		}
	})
	w.text(10, "https")
	w.operationKind(13, op)
}

// parameter2 writes a ParametersItem.
func (w *wire) parameter2(field protowire.Number, p parameter, shared *sharedParameters) {
	w.message(field, func() {
		if ref := shared.refer(p); ref != "" {
			w.message(2, func() { w.string(1, "#/parameters/"+ref) })
		} else {
			w.message(1, func() { w.plainParameter2(p) })
		}
	})
}

// plainParameter2 writes a Parameter.
func (w *wire) plainParameter2(p parameter) {
	switch p.in {
	case "body":
		w.message(1, func() {
			w.string(2, p.name)
			w.string(3, p.in)
			w.bool(4, p.required)
			w.message(5, func() { w.body2(p.model) })
		})
	case "query":
		w.message(2, func() {
			w.message(3, func() {
				w.bool(1, p.required)
				w.string(2, p.in)
				w.string(3, p.description)
				w.string(4, p.name)
				w.string(6, p.typ)
				w.bool(20, true) // unique items
			})
		})
	case "path":
		w.message(2, func() {
			w.message(4, func() {
				w.bool(1, p.required)
				w.string(2, p.in)
				w.string(3, p.description)
				w.string(4, p.name)
				w.string(5, p.typ)
				w.bool(19, true) // unique items
			})
		})
	}
}

func (w *wire) body2(model string) {
	if model != "" {
		w.schema2(&schema{ref: model}, nil)
	} else {
		w.schema2(&schema{typ: "string"}, nil)
	}
}

// schema2 writes the fields of a Schema.
func (w *wire) schema2(s *schema, kinds []gvks.GroupVersionKind) {
	if s.ref != "" {
		w.string(1, "#/definitions/"+s.ref)
	}
	w.string(2, s.format)
	w.string(4, s.description)
	if s.limits != nil {
		w.limits2(s.limits)
	}
	w.strings(19, s.required)
	for _, v := range s.enum {
		w.any(20, strconv.Quote(v))
	}
	if s.values != nil {
		w.message(21, func() { w.message(1, func() { w.schema2(s.values, nil) }) })
	}
	if s.typ != "" {
		w.message(22, func() { w.text(1, s.typ) })
	}
	if s.items != nil {
		w.message(23, func() { w.message(1, func() { w.schema2(s.items, nil) }) })
	}
	if len(s.properties) > 0 {
		w.message(25, func() {
			for _, p := range s.properties {
				w.named(1, p.name, func() { w.schema2(p.schema, nil) })
			}
		})
	}
	w.extensions(31, s, kinds)
}
