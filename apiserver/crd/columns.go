// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"knarr.dev/api/resource"
)

// columns are the columns of a version in tables; none means the usual ones.
func columns(definitions []apiextensionsv1.CustomResourceColumnDefinition) ([]resource.KindColumn, error) {
	var out []resource.KindColumn
	for _, c := range definitions {
		// Parsing finds mistakes now; a parsed path is not safe for use by many at once, so that each table parses anew.
		if err := parsed(c.Name, c.JSONPath).err; err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		description := c.Description
		if description == "" {
			description = fmt.Sprintf("Custom resource definition column (in JSONPath format): %s", c.JSONPath)
		}
		out = append(out, resource.KindColumn{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority,
			Value: func(o resource.Object, now time.Time) any {
				return parsed(c.Name, c.JSONPath).cell(asCustom(o).Object, c.Type, now)
			},
		})
	}
	return out, nil
}

type columnPath struct {
	path *jsonpath.JSONPath
	err  error
}

func parsed(name, path string) columnPath {
	p := jsonpath.New(name)
	err := p.Parse("{" + path + "}")
	p.AllowMissingKeys(true)
	return columnPath{p, err}
}

// cell is the first value at the path, as the type of the column shows it; nil if there is none.
func (c columnPath) cell(object map[string]any, typ string, now time.Time) any {
	results, err := c.path.FindResults(object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	switch typ {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
		return nil
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		case json.Number:
			if f, err := n.Float64(); err == nil {
				return f
			}
		}
		return nil
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
		return nil
	case "date":
		s, ok := value.(string)
		if !ok {
			return nil
		}
		var at metav1.Time
		if at.UnmarshalQueryParameter(s) != nil {
			return "<invalid>"
		}
		if at.IsZero() {
			return "<unknown>"
		}
		return duration.HumanDuration(now.Sub(at.Time))
	case "string":
		if s, ok := value.(string); ok {
			return s
		}
		var buf bytes.Buffer
		if c.path.PrintResults(&buf, []reflect.Value{reflect.ValueOf(value)}) != nil {
			return nil
		}
		return buf.String()
	}
	return nil
}
