// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"reflect"
	"strings"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// TypeOf is the type of objects of a Go type, as type checking of policies knows it; nil if the Go type says nothing.
// Fields follow the JSON names. What Kubernetes does not type is left out or dynamic here too: quantities have no field in
// maps, and recursive types end where they repeat.
//
// root names the type, and with the path the types of its fields. It must not begin with a name that expressions see, and two
// types of one check need different ones.
func TypeOf(t reflect.Type, root string) *apiservercel.DeclType {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[runtime.RawExtension]() {
		return nil
	}
	return declare(t, root, nil)
}

// declare is the type of values of a Go type at a path; above are the structs that it is in.
func declare(t reflect.Type, path string, above []reflect.Type) *apiservercel.DeclType {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return apiservercel.TimestampType
	case reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[metav1.Duration]():
		return apiservercel.DynType
	case reflect.TypeFor[resource.Quantity]():
		return nil
	case reflect.TypeFor[metav1.FieldsV1]():
		return apiservercel.NewObjectType(path, map[string]*apiservercel.DeclField{})
	}
	switch t.Kind() {
	case reflect.String:
		return apiservercel.StringType
	case reflect.Bool:
		return apiservercel.BoolType
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Int16:
		return apiservercel.IntType
	case reflect.Float32, reflect.Float64:
		return apiservercel.DoubleType
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return apiservercel.BytesType
		}
		if item := declare(t.Elem(), path+".@items", above); item != nil {
			return apiservercel.NewListType(item, -1)
		}
	case reflect.Map:
		if item := declare(t.Elem(), path+".@values", above); item != nil {
			return apiservercel.NewMapType(apiservercel.StringType, item, -1)
		}
	case reflect.Struct:
		for _, a := range above {
			if a == t {
				return apiservercel.DynType
			}
		}
		out := apiservercel.NewObjectType(path, map[string]*apiservercel.DeclField{})
		addFields(out, t, path, append(above[:len(above):len(above)], t))
		return out
	}
	return nil
}

func addFields(out *apiservercel.DeclType, t reflect.Type, path string, above []reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && (name == "" || strings.Contains(options, "inline")) {
			if f.Type.Kind() == reflect.Struct {
				addFields(out, f.Type, path, above)
			}
			continue
		}
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		if escaped, ok := apiservercel.Escape(name); ok {
			name = escaped
		}
		if of := declare(f.Type, path+"."+name, above); of != nil {
			add(out, name, of)
		}
	}
}

// Check compiles the expressions of a policy for objects of a known type, and returns what is wrong with each of texts; an
// empty string is nothing. params may be nil for parameters of unknown type. Variables may be wrong: then what uses them is not
// judged.
func (c *Compiler) Check(s Scope, object, params *apiservercel.DeclType, variables [][2]string, texts []string) ([]string, error) {
	set, err := build(s, typedNames{object: object, params: params})
	if err != nil {
		return nil, err
	}
	e := &Environment{env: set.StoredExpressionsEnv()}
	if len(variables) > 0 {
		if e, err = withVariables(set, &fields{known: map[string]*cel.Type{}}, false); err != nil {
			return nil, err
		}
	}
	for _, v := range variables {
		t := cel.DynType
		if ast, issues := e.env.Compile(v[1]); issues == nil {
			t = ast.OutputType()
		}
		e.Declare(v[0], t)
	}
	out := make([]string, len(texts))
	for i, text := range texts {
		if _, issues := e.env.Compile(text); issues != nil {
			out[i] = issues.String()
		}
	}
	return out, nil
}
