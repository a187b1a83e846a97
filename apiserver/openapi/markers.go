// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// markersText is what the comments of the types say and Go's reflection cannot see: list types, required fields,
// defaults, enumerations, and descriptions where SwaggerDoc has none or another one. The test beside this file makes
// it from the sources of the libraries. One fact-carrying thing a line: "@package", "Type", " field", "=value" of an
// enumeration; facts after tabs.
//
//go:embed markers.txt
var markersText string

// markers are the facts by package and type name.
type markers map[string]map[string]*typeFacts

type typeFacts struct {
	fields map[string]fieldFacts // "" is the type itself
	enum   *enum
}

type fieldFacts struct {
	required, optional, hidden bool
	listType, mapType          string
	mapKeys                    []string
	defaultValue, unions       string // JSON
	doc                        string
	documented                 bool
	// gap is one more empty line before the choices, as the documentation of Kubernetes has it where a comment ends in one.
	gap bool
}

type enum struct{ choices []choice }

type choice struct{ value, doc string }

func (m markers) of(t reflect.Type) *typeFacts {
	if f := m[t.PkgPath()][t.Name()]; f != nil {
		return f
	}
	return &typeFacts{}
}

// describe returns the description of a field of a type, or of the type itself.
func (f *typeFacts) describe(field string, value any) string {
	if fact := f.fields[field]; fact.documented {
		return fact.doc
	}
	if d, ok := value.(described); ok {
		return d.SwaggerDoc()[field]
	}
	return ""
}

func (f fieldFacts) extend(s *schema) {
	if f.mapKeys != nil {
		s.extend("x-kubernetes-list-map-keys", f.mapKeys)
	}
	if f.listType != "" {
		s.extend("x-kubernetes-list-type", f.listType)
	}
	if f.mapType != "" {
		s.extend("x-kubernetes-map-type", f.mapType)
	}
	if f.unions != "" {
		s.extensions = append(s.extensions, extension{"x-kubernetes-unions", f.unions})
	}
}

func (e *enum) values() []string {
	var out []string
	for _, c := range e.choices {
		out = append(out, c.value)
	}
	slices.Sort(out)
	return out
}

// description lists the choices in the form that Kubernetes' documentation has them.
func (e *enum) description() string {
	var lines []string
	for _, c := range e.choices {
		lines = append(lines, strings.TrimRight(" - `"+strconv.Quote(c.value)+"` "+c.doc, " "))
	}
	slices.Sort(lines)
	return "Possible enum values:\n" + strings.Join(lines, "\n")
}

// readMarkers parses the text; it keeps strings of it only.
func readMarkers(text string) markers {
	m := markers{}
	var pkg map[string]*typeFacts
	var current *typeFacts
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		head, facts, _ := strings.Cut(line, "\t")
		switch {
		case head == "" || strings.HasPrefix(head, "#"):
		case head[0] == '@':
			pkg = map[string]*typeFacts{}
			m[head[1:]] = pkg
		case head[0] == '=':
			if current.enum == nil {
				current.enum = &enum{}
			}
			current.enum.choices = append(current.enum.choices, choice{head[1:], facts})
		case head[0] == ' ':
			current.fields[head[1:]] = readFacts(facts)
		default:
			current = &typeFacts{fields: map[string]fieldFacts{}}
			pkg[head] = current
			if facts != "" {
				current.fields[""] = readFacts(facts)
			}
		}
	}
	return m
}

func readFacts(text string) fieldFacts {
	var f fieldFacts
	for fact := range strings.SplitSeq(text, "\t") {
		name, value, _ := strings.Cut(fact, "=")
		switch name {
		case "required":
			f.required = true
		case "optional":
			f.optional = true
		case "hidden":
			f.hidden = true
		case "list":
			f.listType = value
		case "map":
			f.mapType = value
		case "key":
			f.mapKeys = append(f.mapKeys, value)
		case "default":
			f.defaultValue = value
		case "unions":
			f.unions = value
		case "gap":
			f.gap = true
		case "doc":
			f.documented = json.Unmarshal([]byte(value), &f.doc) == nil
		}
	}
	return f
}
