// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"cmp"
	"encoding/base64"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// parameter is one of a path or a query, or in v2 a body.
type parameter struct {
	name, in, typ, description string
	model                      string // of a body
	required                   bool
}

// bodyParameter is what v2 calls the body of an operation.
func bodyParameter(op operation) parameter {
	return parameter{name: "body", in: "body", model: op.body, required: op.bodyRequired}
}

func sortParameters(list []parameter) {
	slices.SortStableFunc(list, func(a, b parameter) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.in, b.in))
	})
}

func namespaceParameter() parameter {
	return parameter{
		name: "namespace", in: "path", typ: "string", required: true,
		description: "object name and auth scope, such as for teams and projects",
	}
}

func prettyParameter() parameter {
	return parameter{
		name: "pretty", in: "query", typ: "string",
		description: "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
	}
}

// query returns the query parameters that a type of options stands for; what is no simple value has none. They are
// shared: append to a copy.
func (m *models) query(options described) []parameter {
	typeOf := reflect.TypeOf(options)
	if out, ok := m.options[typeOf]; ok {
		return out
	}
	var out []parameter
	docs := options.SwaggerDoc()
	for f := range typeOf.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		t := f.Type
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		typ, _, _ := simple(t)
		if name == "" || typ == "" {
			continue
		}
		out = append(out, parameter{name: name, in: "query", typ: typ, description: docs[name]})
	}
	m.options[typeOf] = out
	return out
}

// connection returns the query parameters of what is connected to, by the kind of its options.
func (m *models) connection(kind string) []parameter {
	switch kind {
	case "PodAttachOptions":
		return m.query(corev1.PodAttachOptions{})
	case "PodExecOptions":
		return m.query(corev1.PodExecOptions{})
	case "PodLogOptions":
		return m.query(corev1.PodLogOptions{})
	case "PodPortForwardOptions":
		return m.query(corev1.PodPortForwardOptions{})
	case "PodProxyOptions":
		return m.query(corev1.PodProxyOptions{})
	case "ServiceProxyOptions":
		return m.query(corev1.ServiceProxyOptions{})
	case "NodeProxyOptions":
		return m.query(corev1.NodeProxyOptions{})
	}
	return nil
}

// sharedParameters are told once in v2 and referred to.
type sharedParameters struct{ byName map[string]parameter }

// refer returns the name to refer to a parameter with, which tells its content; empty if it is to be told in place.
func (s *sharedParameters) refer(p parameter) string {
	var w writer
	switch {
	case p.in == "body" && !strings.HasPrefix(p.model, "io.k8s.apimachinery"):
		return ""
	case p.in == "body":
		w.bodyParameter2(p)
	case p.name == "name", p.name == "dryRun", p.name == "fieldValidation": // older kubectl look for the latter two
		return ""
	default:
		w.plainParameter2(p)
	}
	h := fnv.New64()
	_, _ = h.Write(w.b)
	name := p.name + "-" + base64.URLEncoding.EncodeToString(h.Sum(nil)[:6])
	s.byName[name] = p
	return name
}
