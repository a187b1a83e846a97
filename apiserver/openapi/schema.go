// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
)

// schema is the part of JSON schema that Kubernetes' types need.
type schema struct {
	description  string
	typ, format  string
	ref          string // name of a definition
	defaultValue string // JSON; not told in v2
	enum         []string
	// oneOf are types that v3 tells instead of typ.
	oneOf      []string
	items      *schema
	values     *schema // of maps
	properties []property
	required   []string
	extensions []extension
	limits     *limits // of custom resources
}

type property struct {
	name   string
	schema *schema
}

type extension struct{ name, value string } // value is JSON

// plainRef is true if s says nothing but its reference.
func (s *schema) plainRef() bool {
	return s.ref != "" && s.description == "" && s.defaultValue == "" && len(s.extensions) == 0
}

func (s *schema) extend(name string, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		return // strings and lists of them only
	}
	s.extensions = append(s.extensions, extension{name, string(b)})
}

// modelNamed, described and the others are what types of k8s.io/api say about themselves.
type (
	modelNamed interface{ OpenAPIModelName() string }
	described  interface{ SwaggerDoc() map[string]string }
	schemed    interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
	alternatives interface{ OpenAPIV3OneOfTypes() []string }
)

// modelName is the name of the definition of a struct type.
func modelName(t reflect.Type) string {
	if m, ok := reflect.New(t).Interface().(modelNamed); ok {
		return m.OpenAPIModelName()
	}
	host, rest, _ := strings.Cut(t.PkgPath(), "/")
	labels := strings.Split(host, ".")
	slices.Reverse(labels)
	name := strings.Join(labels, ".")
	if rest != "" {
		name += "." + strings.ReplaceAll(rest, "/", ".")
	}
	return name + "." + t.Name()
}

// reflector makes definitions of Go types.
type reflector struct {
	markers markers
	// refers is told each struct type that a schema refers to.
	refers func(reflect.Type)
}

// define returns the definition of a struct type.
func (r *reflector) define(t reflect.Type) *schema {
	facts := r.markers.of(t)
	value := reflect.New(t).Interface()
	s := &schema{description: facts.describe("", value)}
	if d, ok := value.(schemed); ok {
		if types := d.OpenAPISchemaType(); len(types) > 0 {
			s.typ = types[0]
		}
		s.format = d.OpenAPISchemaFormat()
		if a, ok := value.(alternatives); ok {
			s.oneOf = a.OpenAPIV3OneOfTypes()
		}
		return s
	}
	s.typ = "object"
	r.members(s, t)
	slices.SortFunc(s.properties, func(a, b property) int { return strings.Compare(a.name, b.name) })
	facts.fields[""].extend(s)
	return s
}

// members adds the fields of a struct type and of what it inlines.
func (r *reflector) members(s *schema, t reflect.Type) {
	facts := r.markers.of(t)
	value := reflect.New(t).Interface()
	for f := range t.Fields() {
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		if !f.IsExported() && !f.Anonymous || name == "-" {
			continue
		}
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			inlined := f.Type
			if inlined.Kind() == reflect.Pointer {
				inlined = inlined.Elem()
			}
			if inlined.Kind() == reflect.Struct {
				r.members(s, inlined)
			}
			continue
		}
		if name == "" && !tagged {
			name = f.Name
		}
		fact := facts.fields[name]
		if name == "" || fact.hidden {
			continue
		}
		omits := strings.Contains(options, "omitempty")
		p := r.field(f.Type, omits, fact)
		if options == "string" {
			p = &schema{typ: "string"}
		}
		p.description = facts.describe(name, value)
		if e := r.enum(f.Type); e != nil {
			if fact.gap {
				p.description += "\n"
			}
			p.description = strings.TrimSpace(p.description + "\n\n" + e.description())
		}
		fact.extend(p)
		extendPatch(p, f.Tag)
		slices.SortFunc(p.extensions, func(a, b extension) int { return strings.Compare(a.name, b.name) })
		if fact.required || !omits && !fact.optional {
			s.required = append(s.required, name)
		}
		s.properties = append(s.properties, property{name, p})
	}
}

func extendPatch(s *schema, tag reflect.StructTag) {
	if v := tag.Get("patchMergeKey"); v != "" {
		s.extend("x-kubernetes-patch-merge-key", v)
	}
	if v := tag.Get("patchStrategy"); v != "" {
		s.extend("x-kubernetes-patch-strategy", v)
	}
}

func (r *reflector) field(t reflect.Type, omits bool, fact fieldFacts) *schema {
	s := r.value(t, omits)
	if fact.defaultValue != "" {
		s.defaultValue = fact.defaultValue
	}
	return s
}

// value returns the schema of a type where it is used; zero values that encoders write are defaults.
func (r *reflector) value(t reflect.Type, omits bool) *schema {
	pointer := t.Kind() == reflect.Pointer
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if typ, format, zero := simple(t); typ != "" {
		s := &schema{typ: typ, format: format}
		if !pointer && !omits {
			s.defaultValue = zero
		}
		if e := r.enum(t); e != nil {
			s.enum = e.values()
		}
		return s
	}
	switch t.Kind() {
	case reflect.Map:
		return &schema{typ: "object", values: r.value(t.Elem(), false)}
	case reflect.Slice, reflect.Array:
		return &schema{typ: "array", items: r.value(t.Elem(), false)}
	case reflect.Struct:
		r.refers(t)
		s := &schema{ref: modelName(t)}
		if !pointer && !reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			s.defaultValue = "{}"
		}
		return s
	}
	return &schema{}
}

func (r *reflector) enum(t reflect.Type) *enum {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.String {
		return nil
	}
	return r.markers.of(t).enum
}

// simple tells the type, format and zero value of a type without structure.
func simple(t reflect.Type) (typ, format, zero string) {
	switch t.Kind() {
	case reflect.String:
		return "string", "", `""`
	case reflect.Bool:
		return "boolean", "", "false"
	case reflect.Int8, reflect.Uint8:
		return "integer", "byte", "0"
	case reflect.Int, reflect.Int16, reflect.Int32, reflect.Uint16:
		return "integer", "int32", "0"
	case reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return "integer", "int64", "0"
	case reflect.Float32:
		return "number", "float", "0"
	case reflect.Float64:
		return "number", "double", "0"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "string", "byte", ""
		}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return "string", "date-time", ""
		}
	}
	return "", "", ""
}
