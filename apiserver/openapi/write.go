// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"encoding/json"
	"slices"

	gvks "k8s.io/apimachinery/pkg/runtime/schema"
)

// writer writes JSON in the words of OpenAPI v2 or v3.
type writer struct {
	b  []byte
	v3 bool
}

func (w *writer) separate() {
	if n := len(w.b); n > 0 && w.b[n-1] != '{' && w.b[n-1] != '[' && w.b[n-1] != ':' {
		w.b = append(w.b, ',')
	}
}

func (w *writer) open(bracket byte) {
	w.separate()
	w.b = append(w.b, bracket)
}

func (w *writer) close(bracket byte) { w.b = append(w.b, bracket) }

func (w *writer) key(name string) {
	w.separate()
	w.b = append(appendString(w.b, name), ':')
}

func (w *writer) string(s string) {
	w.separate()
	w.b = appendString(w.b, s)
}

func (w *writer) raw(json string) {
	w.separate()
	w.b = append(w.b, json...)
}

func (w *writer) strings(list []string) {
	w.open('[')
	for _, s := range list {
		w.string(s)
	}
	w.close(']')
}

// field writes a string field unless it is empty.
func (w *writer) field(name, value string) {
	if value != "" {
		w.key(name)
		w.string(value)
	}
}

// appendString quotes s; only what JSON demands is escaped, and what is dangerous in HTML.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			q, err := json.Marshal(s)
			if err != nil {
				break // strings always marshal
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func (w *writer) refTo(name string) {
	w.key("$ref")
	if w.v3 {
		w.string("#/components/schemas/" + name)
	} else {
		w.string("#/definitions/" + name)
	}
}

// schema writes s, with kinds as one more extension.
func (w *writer) schema(s *schema, kinds []gvks.GroupVersionKind) {
	w.open('{')
	defer w.close('}')
	if w.v3 && s.plainRef() {
		w.refTo(s.ref)
		return
	}
	w.field("description", s.description)
	if !w.v3 || len(s.oneOf) == 0 {
		w.field("type", s.typ)
	}
	w.field("format", s.format)
	if w.v3 && s.defaultValue != "" {
		w.key("default")
		w.raw(s.defaultValue)
	}
	if w.v3 && len(s.oneOf) > 0 {
		w.key("oneOf")
		w.open('[')
		for _, t := range s.oneOf {
			w.open('{')
			w.field("type", t)
			w.close('}')
		}
		w.close(']')
	}
	if s.ref != "" {
		if w.v3 {
			w.key("allOf")
			w.open('[')
			w.open('{')
			w.refTo(s.ref)
			w.close('}')
			w.close(']')
		} else {
			w.refTo(s.ref)
		}
	}
	if len(s.enum) > 0 {
		w.key("enum")
		w.strings(s.enum)
	}
	if s.limits != nil {
		w.writeLimits(s.limits)
	}
	w.structure(s)
	w.extensions(s, kinds)
}

func (w *writer) structure(s *schema) {
	if len(s.required) > 0 {
		w.key("required")
		w.strings(s.required)
	}
	if len(s.properties) > 0 {
		w.key("properties")
		w.open('{')
		for _, p := range s.properties {
			w.key(p.name)
			w.schema(p.schema, nil)
		}
		w.close('}')
	}
	if s.items != nil {
		w.key("items")
		w.schema(s.items, nil)
	}
	if s.values != nil {
		w.key("additionalProperties")
		w.schema(s.values, nil)
	}
}

func (w *writer) extensions(s *schema, kinds []gvks.GroupVersionKind) {
	for _, e := range s.extensions {
		w.key(e.name)
		w.raw(e.value)
	}
	if len(kinds) > 0 {
		w.key("x-kubernetes-group-version-kind")
		w.open('[')
		for _, k := range kinds {
			w.kind(k)
		}
		w.close(']')
	}
}

func (w *writer) kind(k gvks.GroupVersionKind) {
	w.open('{')
	w.key("group")
	w.string(k.Group)
	w.key("kind")
	w.string(k.Kind)
	w.key("version")
	w.string(k.Version)
	w.close('}')
}

func (w *writer) info() {
	w.key("info")
	w.raw(`{"title":"Kubernetes","version":"1.36"}`)
}

func (w *writer) path(p path, shared *sharedParameters) {
	w.key(p.name)
	w.open('{')
	for _, op := range p.operations {
		w.key(op.method)
		if w.v3 {
			w.operation3(op)
		} else {
			w.operation2(op, shared)
		}
	}
	if len(p.shared) > 0 {
		w.key("parameters")
		w.open('[')
		for _, q := range p.shared {
			w.parameter(q, shared)
		}
		w.close(']')
	}
	w.close('}')
}

func (w *writer) operationKind(op operation) {
	w.field("x-kubernetes-action", op.action)
	if op.gvk != nil {
		w.key("x-kubernetes-group-version-kind")
		if !w.v3 {
			w.kind(*op.gvk)
			return
		}
		w.open('{') // in another order, so that documents equal those of Kubernetes to the byte
		w.key("group")
		w.string(op.gvk.Group)
		w.key("version")
		w.string(op.gvk.Version)
		w.key("kind")
		w.string(op.gvk.Kind)
		w.close('}')
	}
}

func (w *writer) parameter(p parameter, shared *sharedParameters) {
	if w.v3 {
		w.parameter3(p)
	} else {
		w.parameter2(p, shared)
	}
}

func (w *writer) operation3(op operation) {
	w.open('{')
	w.key("tags")
	w.strings([]string{op.tag})
	w.field("description", op.description)
	w.field("operationId", op.id)
	if len(op.parameters) > 0 {
		w.key("parameters")
		w.open('[')
		for _, p := range op.parameters {
			w.parameter3(p)
		}
		w.close(']')
	}
	if op.body != "" {
		w.key("requestBody")
		w.open('{')
		w.content(op.consumes, op.body)
		if op.bodyRequired {
			w.key("required")
			w.raw("true")
		}
		w.close('}')
	}
	w.key("responses")
	w.open('{')
	for _, r := range op.responses {
		w.key(r.code)
		w.open('{')
		w.field("description", r.description)
		if r.model != "" || r.text {
			w.content(op.produces, r.model)
		}
		w.close('}')
	}
	w.close('}')
	w.operationKind(op)
	w.close('}')
}

// content tells the media types of a body of a model, or of text if that is empty.
func (w *writer) content(media []string, model string) {
	w.key("content")
	w.open('{')
	for _, m := range slices.Sorted(slices.Values(media)) {
		w.key(m)
		w.open('{')
		w.key("schema")
		w.bodySchema(model)
		w.close('}')
	}
	w.close('}')
}

func (w *writer) bodySchema(model string) {
	w.open('{')
	if model != "" {
		w.refTo(model)
	} else {
		w.field("type", "string")
	}
	w.close('}')
}

func (w *writer) parameter3(p parameter) {
	w.open('{')
	w.field("name", p.name)
	w.field("in", p.in)
	w.field("description", p.description)
	if p.required {
		w.key("required")
		w.raw("true")
	}
	w.key("schema")
	w.open('{')
	w.field("type", p.typ)
	w.key("uniqueItems")
	w.raw("true")
	w.close('}')
	w.close('}')
}

func (w *writer) operation2(op operation, shared *sharedParameters) {
	w.open('{')
	w.field("description", op.description)
	if len(op.consumes) > 0 {
		w.key("consumes")
		w.strings(op.consumes)
	}
	w.key("produces")
	w.strings(op.produces)
	w.key("schemes")
	w.raw(`["https"]`)
	w.key("tags")
	w.strings([]string{op.tag})
	w.field("operationId", op.id)
	if len(op.parameters) > 0 || op.body != "" {
		w.key("parameters")
		w.open('[')
		if op.body != "" {
			w.body2(op, shared)
		}
		for _, p := range op.parameters {
			w.parameter2(p, shared)
		}
		w.close(']')
	}
	w.key("responses")
	w.open('{')
	for _, r := range op.responses {
		w.key(r.code)
		w.open('{')
		w.field("description", r.description)
		if r.model != "" || r.text {
			w.key("schema")
			w.bodySchema(r.model)
		}
		w.close('}')
	}
	w.close('}')
	w.operationKind(op)
	w.close('}')
}

func (w *writer) body2(op operation, shared *sharedParameters) {
	if ref := shared.refer(bodyParameter(op)); ref != "" {
		w.refToParameter(ref)
	} else {
		w.bodyParameter2(bodyParameter(op))
	}
}

func (w *writer) parameter2(p parameter, shared *sharedParameters) {
	if ref := shared.refer(p); ref != "" {
		w.refToParameter(ref)
	} else {
		w.plainParameter2(p)
	}
}

func (w *writer) refToParameter(name string) {
	w.open('{')
	w.field("$ref", "#/parameters/"+name)
	w.close('}')
}

func (w *writer) bodyParameter2(p parameter) {
	w.open('{')
	w.field("name", p.name)
	w.field("in", p.in)
	if p.required {
		w.key("required")
		w.raw("true")
	}
	w.key("schema")
	w.bodySchema(p.model)
	w.close('}')
}

func (w *writer) plainParameter2(p parameter) {
	w.open('{')
	w.raw(`"uniqueItems":true`)
	w.field("type", p.typ)
	w.field("description", p.description)
	w.field("name", p.name)
	w.field("in", p.in)
	if p.required {
		w.key("required")
		w.raw("true")
	}
	w.close('}')
}
