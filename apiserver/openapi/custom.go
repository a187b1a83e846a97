// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/resource"
)

// limits are what only schemas of custom resources say: rules for values.
type limits struct {
	title, pattern, id                           string
	nullable, exclusiveMaximum, exclusiveMinimum bool
	uniqueItems, anyValues                       bool
	maximum, minimum, multipleOf                 *float64
	maxLength, minLength, maxItems, minItems     *int64
	maxProperties, minProperties                 *int64
	enum                                         []string // JSON
	example                                      string   // JSON
	docs                                         *apiextensionsv1.ExternalDocumentation
	allOf, anyOf, oneOf                          []*schema
	not                                          *schema
}

// customName is the name of the definition of a kind without Go type.
func customName(k *resource.Kind) string {
	labels := strings.Split(k.Group, ".")
	slices.Reverse(labels)
	return strings.Join(append(labels, k.Version, k.Kind), ".")
}

func customListName(k *resource.Kind) string {
	return strings.TrimSuffix(customName(k), k.Kind) + k.ListKind()
}

// describer turns schemas of definitions of custom resources into those of documents.
type describer struct {
	v2   bool // which knows less
	meta string
}

// describeCustom is the definition of a custom kind or of its list.
func (m *models) describeCustom(name string) (*schema, []string) {
	meta := m.meta(metav1.ObjectMeta{})
	k := m.custom[name]
	if k != nil && name == customListName(k) {
		return m.describeCustomList(k)
	}
	d := describer{v2: m.v2, meta: meta}
	var props *apiextensionsv1.JSONSchemaProps
	if k != nil && k.Custom != nil {
		props, _ = k.Custom.Schema.(*apiextensionsv1.JSONSchemaProps)
	}
	if props == nil {
		props = &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(bool)}
		*props.XPreserveUnknownFields = true
	}
	if d.v2 && preserves(props) {
		return &schema{typ: "object"}, nil
	}
	s := d.schema(props)
	s.setProperty("apiVersion", &schema{typ: "string", description: metav1.TypeMeta{}.SwaggerDoc()["apiVersion"]})
	s.setProperty("kind", &schema{typ: "string", description: metav1.TypeMeta{}.SwaggerDoc()["kind"]})
	s.setProperty("metadata", d.metadata())
	return s, []string{meta}
}

func (m *models) describeCustomList(k *resource.Kind) (*schema, []string) {
	listMeta := m.meta(metav1.ListMeta{})
	docs := metav1.PartialObjectMetadataList{}.SwaggerDoc()
	s := &schema{typ: "object", description: k.ListKind() + " is a list of " + k.Kind, required: []string{"items"}}
	s.setProperty("apiVersion", &schema{typ: "string", description: metav1.TypeMeta{}.SwaggerDoc()["apiVersion"]})
	s.setProperty("items", &schema{
		typ: "array", items: &schema{ref: customName(k)},
		description: "List of " + k.Resource + ". More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
	})
	s.setProperty("kind", &schema{typ: "string", description: metav1.TypeMeta{}.SwaggerDoc()["kind"]})
	s.setProperty("metadata", &schema{ref: listMeta, description: docs["metadata"]})
	return s, []string{customName(k), listMeta}
}

func (d describer) metadata() *schema {
	return &schema{ref: d.meta, description: "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"}
}

// setProperty adds or replaces a property, in the order of names.
func (s *schema) setProperty(name string, p *schema) {
	i, found := slices.BinarySearchFunc(s.properties, name, func(have property, name string) int { return strings.Compare(have.name, name) })
	if found {
		s.properties[i].schema = p
		return
	}
	s.properties = slices.Insert(s.properties, i, property{name, p})
}

func preserves(p *apiextensionsv1.JSONSchemaProps) bool {
	return p.XPreserveUnknownFields != nil && *p.XPreserveUnknownFields
}

func (d describer) schema(p *apiextensionsv1.JSONSchemaProps) *schema {
	s := &schema{description: p.Description, typ: p.Type, format: p.Format, required: slices.Clone(p.Required)}
	l := &limits{
		title: p.Title, pattern: p.Pattern, id: p.ID, nullable: p.Nullable, exclusiveMaximum: p.ExclusiveMaximum,
		exclusiveMinimum: p.ExclusiveMinimum, uniqueItems: p.UniqueItems, maximum: p.Maximum, minimum: p.Minimum, multipleOf: p.MultipleOf,
		maxLength: p.MaxLength, minLength: p.MinLength, maxItems: p.MaxItems, minItems: p.MinItems,
		maxProperties: p.MaxProperties, minProperties: p.MinProperties, docs: p.ExternalDocs,
	}
	s.limits = l
	if p.Default != nil {
		s.defaultValue = string(p.Default.Raw)
	}
	if p.Example != nil {
		l.example = string(p.Example.Raw)
	}
	for _, v := range p.Enum {
		l.enum = append(l.enum, string(v.Raw))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Properties)) {
		child := p.Properties[name]
		s.properties = append(s.properties, property{name, d.schema(&child)})
	}
	if p.Items != nil && p.Items.Schema != nil {
		s.items = d.schema(p.Items.Schema)
	}
	if a := p.AdditionalProperties; a != nil {
		if a.Schema != nil {
			s.values = d.schema(a.Schema)
		} else {
			l.anyValues = a.Allows
		}
	}
	d.alternatives(p, l)
	d.extend(p, s)
	if d.v2 {
		d.simplify(p, s)
	}
	return s
}

func (d describer) alternatives(p *apiextensionsv1.JSONSchemaProps, l *limits) {
	list := func(in []apiextensionsv1.JSONSchemaProps) (out []*schema) {
		for i := range in {
			out = append(out, d.schema(&in[i]))
		}
		return out
	}
	l.allOf, l.anyOf, l.oneOf = list(p.AllOf), list(p.AnyOf), list(p.OneOf)
	if p.Not != nil {
		l.not = d.schema(p.Not)
	}
	if p.XIntOrString && p.Type == "" && len(p.AnyOf) == 0 && len(p.AllOf) == 0 {
		l.anyOf = []*schema{{typ: "integer"}, {typ: "string"}}
	}
}

// extend adds the extensions, and what an embedded resource has beside its schema.
func (d describer) extend(p *apiextensionsv1.JSONSchemaProps, s *schema) {
	if p.XEmbeddedResource {
		s.extend("x-kubernetes-embedded-resource", true)
		doc := map[string]string{
			"apiVersion": "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
			"kind":       "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
		}
		s.setProperty("apiVersion", &schema{typ: "string", description: doc["apiVersion"]})
		s.setProperty("kind", &schema{typ: "string", description: doc["kind"]})
		s.setProperty("metadata", d.metadata())
		for _, name := range []string{"kind", "apiVersion"} {
			if !slices.Contains(s.required, name) {
				s.required = append(s.required, name)
			}
		}
	}
	if p.XIntOrString {
		s.extend("x-kubernetes-int-or-string", true)
	}
	if len(p.XListMapKeys) > 0 {
		s.extend("x-kubernetes-list-map-keys", p.XListMapKeys)
	}
	if p.XListType != nil {
		s.extend("x-kubernetes-list-type", *p.XListType)
	}
	if p.XMapType != nil {
		s.extend("x-kubernetes-map-type", *p.XMapType)
	}
	if preserves(p) {
		s.extend("x-kubernetes-preserve-unknown-fields", true)
	}
	if len(p.XValidations) > 0 {
		s.extend("x-kubernetes-validations", p.XValidations)
	}
}

// simplify leaves out what v2 cannot say.
func (d describer) simplify(p *apiextensionsv1.JSONSchemaProps, s *schema) {
	l := s.limits
	l.allOf, l.anyOf, l.oneOf, l.not, l.nullable = nil, nil, nil, nil, false
	if p.Nullable || preserves(p) {
		s.typ, s.format, s.items, s.properties, s.required, s.values, l.anyValues = "", "", nil, nil, nil, nil, false
	}
	if p.XIntOrString {
		s.typ = ""
	}
}

// writeLimits writes what limits says, in JSON.
func (w *writer) writeLimits(l *limits) {
	w.field("id", l.id)
	w.field("title", l.title)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"nullable", l.nullable}, {"exclusiveMaximum", l.exclusiveMaximum}, {"exclusiveMinimum", l.exclusiveMinimum},
		{"uniqueItems", l.uniqueItems}, {"additionalProperties", l.anyValues},
	} {
		if f.set {
			w.key(f.name)
			w.raw("true")
		}
	}
	w.number("maximum", l.maximum)
	w.number("minimum", l.minimum)
	w.number("multipleOf", l.multipleOf)
	for _, f := range []struct {
		name  string
		value *int64
	}{
		{"maxLength", l.maxLength}, {"minLength", l.minLength}, {"maxItems", l.maxItems}, {"minItems", l.minItems},
		{"maxProperties", l.maxProperties}, {"minProperties", l.minProperties},
	} {
		if f.value != nil {
			w.key(f.name)
			w.raw(encoded(*f.value))
		}
	}
	w.field("pattern", l.pattern)
	if len(l.enum) > 0 {
		w.key("enum")
		w.raw("[" + strings.Join(l.enum, ",") + "]")
	}
	for _, f := range []struct {
		name string
		list []*schema
	}{{"allOf", l.allOf}, {"anyOf", l.anyOf}, {"oneOf", l.oneOf}} {
		if len(f.list) == 0 {
			continue
		}
		w.key(f.name)
		w.open('[')
		for _, s := range f.list {
			w.schema(s, nil)
		}
		w.close(']')
	}
	if l.not != nil {
		w.key("not")
		w.schema(l.not, nil)
	}
	if l.docs != nil {
		w.key("externalDocs")
		w.raw(encoded(l.docs))
	}
	if l.example != "" {
		w.key("example")
		w.raw(l.example)
	}
}

func (w *writer) number(name string, v *float64) {
	if v != nil {
		w.key(name)
		w.raw(encoded(*v))
	}
}

// encoded is the JSON of numbers and plain structures.
func encoded(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "null"
	}
	return string(b)
}
