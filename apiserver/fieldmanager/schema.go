// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"bytes"
	_ "embed" // the schema
	"encoding/json"
	"fmt"
	"iter"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"knarr.dev/api/resource"
)

// schemaText is the merge schema that client-go publishes in k8s.io/client-go/applyconfigurations, in a form that is
// read in a hundredth of the time: one type a line. TestSchema compares the two and, with -update, rewrites it.
//
//go:embed schema.jsonl
var schemaText []byte

// reviewsText is the schema of reviews and token requests in the same form, made from the OpenAPI documents of Kubernetes v1.36:
// nothing is applied to those, so client-go has none, but their answers have managedFields.
//
//go:embed reviews.jsonl
var reviewsText []byte

// The lines of schemaText. Names are short because there are many. Unions are left out: the library does not use them.
type (
	schemaType struct {
		Name string `json:"name"`
		schemaAtom
	}
	schemaAtom struct {
		Scalar string      `json:"s,omitempty"`
		List   *schemaList `json:"l,omitempty"`
		Map    *schemaMap  `json:"m,omitempty"`
	}
	schemaRef struct {
		Type string `json:"t,omitempty"`
		schemaAtom
		How string `json:"h,omitempty"`
	}
	schemaList struct {
		Elem schemaRef `json:"e"`
		How  string    `json:"h,omitempty"`
		Keys []string  `json:"k,omitempty"`
	}
	schemaMap struct {
		Fields []schemaField `json:"f,omitempty"`
		Elem   *schemaRef    `json:"e,omitempty"`
		How    string        `json:"h,omitempty"`
	}
	schemaField struct {
		Name string `json:"n"`
		schemaRef
		Default any `json:"d,omitempty"`
	}
)

// definitions are the types of the schema by name, each parsed when it is first asked for.
type definitions struct {
	lines map[string][]byte
	atoms map[string]smd.Atom
}

func newDefinitions() *definitions {
	d := &definitions{lines: map[string][]byte{}, atoms: map[string]smd.Atom{}}
	for line := range schemaLines() {
		if rest, ok := bytes.CutPrefix(line, []byte(`{"name":"`)); ok {
			name, _, _ := bytes.Cut(rest, []byte{'"'})
			d.lines[string(name)] = line
		}
	}
	return d
}

// resolve is the atom that a reference means.
func (d *definitions) resolve(ref smd.TypeRef) (smd.Atom, bool) {
	atom := ref.Inlined
	if ref.NamedType != nil {
		var ok bool
		if atom, ok = d.named(*ref.NamedType); !ok {
			return atom, false
		}
	}
	if how := ref.ElementRelationship; how != nil {
		switch {
		case atom.Map != nil:
			atom.Map = &smd.Map{Fields: atom.Map.Fields, ElementType: atom.Map.ElementType, ElementRelationship: *how}
		case atom.List != nil:
			l := *atom.List
			l.ElementRelationship = *how
			atom.List = &l
		default:
			return atom, false
		}
	}
	return atom, true
}

func (d *definitions) named(name string) (smd.Atom, bool) {
	if atom, ok := d.atoms[name]; ok {
		return atom, true
	}
	def, err := readType(d.lines[name])
	if err != nil {
		return smd.Atom{}, false
	}
	d.atoms[name] = def.Atom
	return def.Atom, true
}

func readType(line []byte) (smd.TypeDef, error) {
	var t schemaType
	if err := json.Unmarshal(line, &t); err != nil {
		return smd.TypeDef{}, fmt.Errorf("merge schema: %w", err)
	}
	return smd.TypeDef{Name: t.Name, Atom: t.atom()}, nil
}

func schemaLines() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, text := range [][]byte{schemaText, reviewsText} {
			for line := range bytes.Lines(text) {
				if !yield(line) {
					return
				}
			}
		}
	}
}

// readSchema parses all types of the schema.
func readSchema() ([]smd.TypeDef, error) {
	var out []smd.TypeDef
	for line := range schemaLines() {
		def, err := readType(line)
		if err != nil {
			return nil, err
		}
		out = append(out, def)
	}
	return out, nil
}

func (a *schemaAtom) atom() smd.Atom {
	var out smd.Atom
	if a.Scalar != "" {
		s := smd.Scalar(a.Scalar)
		out.Scalar = &s
	}
	if l := a.List; l != nil {
		out.List = &smd.List{ElementType: l.Elem.ref(), ElementRelationship: smd.ElementRelationship(l.How), Keys: l.Keys}
	}
	if m := a.Map; m != nil {
		out.Map = &smd.Map{ElementRelationship: smd.ElementRelationship(m.How)}
		for i := range m.Fields {
			f := &m.Fields[i]
			out.Map.Fields = append(out.Map.Fields, smd.StructField{Name: f.Name, Type: f.ref(), Default: whole(f.Default)})
		}
		if m.Elem != nil {
			out.Map.ElementType = m.Elem.ref()
		}
	}
	return out
}

// whole makes numbers the integers that they were.
func whole(v any) any {
	if f, ok := v.(float64); ok && f == float64(int64(f)) {
		return int64(f)
	}
	return v
}

func (r *schemaRef) ref() smd.TypeRef {
	out := smd.TypeRef{Inlined: r.atom()}
	if r.Type != "" {
		out.NamedType = &r.Type
	}
	if r.How != "" {
		how := smd.ElementRelationship(r.How)
		out.ElementRelationship = &how
	}
	return out
}

// types knows the merge schema of built-in kinds, for the library. It is read when first needed.
type types struct {
	kinds  []*resource.Kind
	parser func() (*typed.Parser, error)
}

func newTypes(kinds []*resource.Kind) *types {
	return &types{kinds: kinds, parser: sync.OnceValues(func() (*typed.Parser, error) {
		defs, err := readSchema()
		return &typed.Parser{Schema: smd.Schema{Types: defs}}, err
	})}
}

// typeName is the name of a kind's type in the schema, or empty.
func (t *types) typeName(gvk schema.GroupVersionKind) string {
	if gvk == scaleKind() {
		return autoscalingv1.Scale{}.OpenAPIModelName()
	}
	if gvk == tokenKind() {
		return authenticationv1.TokenRequest{}.OpenAPIModelName()
	}
	for _, kind := range t.kinds {
		if kind.GroupVersionKind == gvk {
			if n, ok := kind.New().(interface{ OpenAPIModelName() string }); ok {
				return n.OpenAPIModelName()
			}
		}
	}
	return ""
}

// ObjectToTyped implements managedfields.TypeConverter.
func (t *types) ObjectToTyped(obj runtime.Object, o ...typed.ValidationOptions) (*typed.TypedValue, error) {
	parser, err := t.parser()
	if err != nil {
		return nil, err
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	name := t.typeName(gvk)
	if name == "" {
		return nil, fmt.Errorf("no merge schema for %s", gvk)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return parser.Type(name).FromUnstructured(u.UnstructuredContent(), o...)
	}
	return parser.Type(name).FromStructured(obj, o...)
}

// TypedToObject implements managedfields.TypeConverter.
func (t *types) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	m, ok := v.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("merged value is a %T", v.AsValue().Unstructured())
	}
	return &unstructured.Unstructured{Object: m}, nil
}

var _ managedfields.TypeConverter = (*types)(nil)
