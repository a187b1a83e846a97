// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite markers.txt from the sources of the libraries")

// markedPackages have the types of all stable APIs.
func markedPackages() []string {
	stable := []string{
		"admission/v1", "admissionregistration/v1", "apps/v1", "authentication/v1", "authorization/v1", "autoscaling/v1",
		"autoscaling/v2", "batch/v1", "certificates/v1", "coordination/v1", "core/v1", "discovery/v1", "events/v1",
		"flowcontrol/v1", "networking/v1", "node/v1", "policy/v1", "rbac/v1", "resource/v1", "scheduling/v1", "storage/v1",
	}
	out := []string{
		"k8s.io/apimachinery/pkg/api/resource",
		"k8s.io/apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/runtime", "k8s.io/apimachinery/pkg/util/intstr",
		"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", "k8s.io/apimachinery/pkg/version",
		"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1",
	}
	for _, p := range stable {
		out = append(out, "k8s.io/api/"+p)
	}
	slices.Sort(out)
	return out
}

func TestMarkersAreThoseOfTheSources(t *testing.T) {
	list := exec.Command("go", append([]string{"list", "-f", "{{.ImportPath}}\t{{.Dir}}"}, markedPackages()...)...)
	out, err := list.Output()
	if err != nil {
		t.Skipf("needs the go command and the modules' sources: %v", err)
	}
	constants := map[string]string{} // of all packages so far; those of core come early
	var text bytes.Buffer
	text.WriteString("# Made by go test -update; see markers.go.\n")
	for line := range strings.Lines(string(out)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		s := source{enums: map[string][]choice{}, constants: constants, swagger: map[string]map[string]string{}}
		if err := s.parse(dir); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "@%s\n", pkg)
		s.write(&text)
	}
	if *update {
		if err := os.WriteFile("markers.txt", text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text.String() != markersText {
		t.Error("markers.txt is out of date: run go test -update and review the difference")
	}
}

// source is one package.
type source struct {
	types     []*ast.TypeSpec
	docs      map[*ast.TypeSpec]string
	enums     map[string][]choice // by type name
	constants map[string]string   // Go literals
	swagger   map[string]map[string]string
}

func (s *source) parse(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	s.docs = map[*ast.TypeSpec]string{}
	var constants []*ast.GenDecl
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			switch g.Tok {
			case token.TYPE:
				for _, spec := range g.Specs {
					ts := spec.(*ast.TypeSpec)
					s.types = append(s.types, ts)
					s.docs[ts] = ts.Doc.Text()
					if ts.Doc == nil {
						s.docs[ts] = g.Doc.Text()
					}
				}
			case token.CONST:
				constants = append(constants, g)
			case token.VAR:
				s.readSwagger(g)
			}
		}
	}
	slices.SortFunc(s.types, func(a, b *ast.TypeSpec) int { return strings.Compare(a.Name.Name, b.Name.Name) })
	for _, ts := range s.types {
		if tagged(s.docs[ts], "enum") != nil {
			s.enums[ts.Name.Name] = []choice{}
		}
	}
	for _, g := range constants {
		s.readConstants(g)
	}
	return nil
}

func (s *source) readConstants(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		v := spec.(*ast.ValueSpec)
		doc := v.Doc.Text()
		if v.Doc == nil && !g.Lparen.IsValid() {
			doc = g.Doc.Text()
		}
		for i, name := range v.Names {
			if i >= len(v.Values) {
				continue
			}
			expr := v.Values[i]
			kind, _ := v.Type.(*ast.Ident)
			if call, is := expr.(*ast.CallExpr); is && len(call.Args) == 1 {
				expr = call.Args[0]
				kind, _ = call.Fun.(*ast.Ident)
			}
			literal := s.literal(expr)
			if literal == "" {
				continue
			}
			s.constants[name.Name] = literal
			if kind == nil || s.enums[kind.Name] == nil {
				continue
			}
			value, err := strconv.Unquote(literal)
			if err == nil {
				s.choose(kind.Name, name.Name, value, doc)
			}
		}
	}
}

// literal returns the Go literal that an expression stands for.
func (s *source) literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Value
	case *ast.Ident:
		return s.constants[e.Name]
	case *ast.SelectorExpr:
		return s.constants[e.Sel.Name]
	}
	return ""
}

// choose adds a choice; of two names for one value the one with more to say counts.
func (s *source) choose(typ, name, value, doc string) {
	doc = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(doc), name))
	doc = regexp.MustCompile(`\s+`).ReplaceAllString(doc, " ")
	for i, c := range s.enums[typ] {
		if c.value == value {
			if len(doc) > len(c.doc) {
				s.enums[typ][i].doc = doc
			}
			return
		}
	}
	s.enums[typ] = append(s.enums[typ], choice{value, doc})
}

func (s *source) readSwagger(g *ast.GenDecl) {
	for _, spec := range g.Specs {
		v := spec.(*ast.ValueSpec)
		name, ok := strings.CutPrefix(v.Names[0].Name, "map_")
		if !ok || len(v.Values) != 1 {
			continue
		}
		lit, ok := v.Values[0].(*ast.CompositeLit)
		if !ok {
			continue
		}
		docs := map[string]string{}
		for _, e := range lit.Elts {
			kv := e.(*ast.KeyValueExpr)
			key, _ := strconv.Unquote(kv.Key.(*ast.BasicLit).Value)
			docs[key], _ = strconv.Unquote(kv.Value.(*ast.BasicLit).Value)
		}
		s.swagger[name] = docs
	}
}

func (s *source) write(w *bytes.Buffer) {
	for _, ts := range s.types {
		name := ts.Name.Name
		var body bytes.Buffer
		if choices := s.enums[name]; choices != nil {
			slices.SortFunc(choices, func(a, b choice) int { return strings.Compare(a.value, b.value) })
			for _, c := range choices {
				fmt.Fprintf(&body, "=%s\t%s\n", c.value, c.doc)
			}
		}
		facts := s.facts(name, "", s.docs[ts], false)
		if st, ok := ts.Type.(*ast.StructType); ok && ts.Name.IsExported() {
			s.writeFields(&body, name, st)
			if u := unions(st, s.docs[ts]); u != "" {
				facts = append(facts, "unions="+u)
			}
		} else {
			facts = nil
		}
		if body.Len() == 0 && len(facts) == 0 {
			continue
		}
		w.WriteString(strings.Join(append([]string{name}, facts...), "\t") + "\n")
		w.Write(body.Bytes())
	}
}

func (s *source) writeFields(w *bytes.Buffer, typ string, st *ast.StructType) {
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(f.Tag.Value)
		name, options, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		facts := s.facts(typ, name, f.Doc.Text(), strings.Contains(options, "omitempty"))
		if s.chosen(f.Type) && strings.HasSuffix(describe(strings.TrimRight(f.Doc.Text(), "\n")+"\n\nX"), "\n\n\nX") {
			facts = append(facts, "gap")
		}
		if len(facts) > 0 {
			fmt.Fprintf(w, " %s\t%s\n", name, strings.Join(facts, "\t"))
		}
	}
}

// chosen is true for the enumerations of this package and pointers to them.
func (s *source) chosen(t ast.Expr) bool {
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	name, ok := t.(*ast.Ident)
	return ok && s.enums[name.Name] != nil
}

// facts are those of a field, or of a type if field is empty.
func (s *source) facts(typ, field, doc string, omits bool) []string {
	var out []string
	if v := tagged(doc, "k8s:openapi-gen"); len(v) > 0 && v[0] == "false" && field != "" {
		return []string{"hidden"}
	}
	if field != "" {
		optional, required := tagged(doc, "optional") != nil, tagged(doc, "required") != nil
		if optional && !omits {
			out = append(out, "optional")
		} else if required && omits {
			out = append(out, "required")
		}
	}
	for _, v := range tagged(doc, "listType") {
		out = append(out, "list="+v)
	}
	for _, v := range tagged(doc, "listMapKey") {
		out = append(out, "key="+v)
	}
	for _, v := range append(tagged(doc, "mapType"), tagged(doc, "structType")...) {
		out = append(out, "map="+v)
	}
	for _, v := range tagged(doc, "default") {
		if ref, ok := strings.CutPrefix(v, "ref("); ok {
			ref = strings.TrimSuffix(ref, ")")
			v = s.constants[ref[strings.LastIndexByte(ref, '.')+1:]]
		}
		out = append(out, "default="+v)
	}
	if text := describe(doc); text != s.swagger[typ][field] {
		b := new(bytes.Buffer)
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		_ = e.Encode(text)
		out = append(out, "doc="+strings.TrimSpace(b.String()))
	}
	return out
}

// unions tells what a struct with a discriminator is.
func unions(st *ast.StructType, doc string) string {
	if tagged(doc, "union") == nil {
		return ""
	}
	discriminator, fields := "", map[string]string{}
	for _, f := range st.Fields.List {
		tag, _ := strconv.Unquote(f.Tag.Value)
		name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		switch {
		case tagged(f.Doc.Text(), "unionDiscriminator") != nil:
			discriminator = name
		case tagged(f.Doc.Text(), "optional") != nil:
			fields[name] = f.Names[0].Name
		}
	}
	u := map[string]any{"fields-to-discriminateBy": fields}
	if discriminator != "" {
		u["discriminator"] = discriminator
	}
	b, err := json.Marshal([]any{u})
	if err != nil {
		return ""
	}
	return string(b)
}

// tagged returns the values of the lines "+name=value"; a line without value has the empty one.
func tagged(doc, name string) []string {
	var out []string
	for line := range strings.Lines(doc) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "+"+name)
		if !ok {
			continue
		}
		if value, ok := strings.CutPrefix(rest, "="); ok {
			out = append(out, value)
		} else if rest == "" {
			out = append(out, "")
		}
	}
	return out
}

// describe makes a description of a comment: lines of a paragraph are joined, indented lines stay, and what is for
// developers (after ---, TODO, markers) is left out.
func describe(doc string) string {
	var b bytes.Buffer
	drop := func() { b.Truncate(max(b.Len()-1, 0)) }
	for line := range strings.SplitSeq(strings.TrimRight(doc, "\n"), "\n") {
		if line == "---" {
			break
		}
		line = strings.TrimRight(line, " ")
		leading := strings.TrimLeft(line, " ")
		switch {
		case line == "":
			drop()
			b.WriteString("\n\n")
		case strings.HasPrefix(leading, "TODO"), strings.HasPrefix(leading, "+"):
		case line[0] == ' ' || line[0] == '\t':
			drop()
			b.WriteString("\n" + line + "\n")
		default:
			b.WriteString(line + " ")
		}
	}
	return strings.TrimSpace(b.String())
}

func TestEveryMarkedTypeExists(t *testing.T) {
	m := readMarkers(markersText)
	if got, want := slices.Sorted(maps.Keys(m)), markedPackages(); !slices.Equal(got, want) {
		t.Errorf("packages %v, want %v", got, want)
	}
}
