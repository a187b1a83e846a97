// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package expression

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// Names are the values of an evaluation by name. Those that are absent are null.
type Names map[string]any

// ResolveName implements interpreter.Activation.
func (n Names) ResolveName(name string) (any, bool) {
	v, ok := n[name]
	return v, ok
}

// Parent implements interpreter.Activation.
func (Names) Parent() interpreter.Activation { return nil }

const variablesType = "kubernetes.variables"

// fields are the variables that were declared so far.
type fields struct{ known map[string]*types.Type }

// resolver gives the type checker the fields of variables, and what next has.
type resolver struct {
	fields *fields
	next   common.TypeResolver
}

// Resolve implements common.TypeResolver.
func (r *resolver) Resolve(name string) (common.ResolvedType, bool) {
	if name == variablesType {
		return r.fields, true
	}
	if r.next != nil {
		return r.next.Resolve(name)
	}
	return nil, false
}

// HasTrait implements ref.Type.
func (*fields) HasTrait(int) bool { return false }

// TypeName implements ref.Type.
func (*fields) TypeName() string { return variablesType }

// Type implements common.ResolvedType.
func (*fields) Type() *types.Type { return types.NewObjectType(variablesType) }

// Field implements common.ResolvedType.
func (f *fields) Field(name string) (*types.FieldType, bool) {
	t, ok := f.known[name]
	if !ok {
		return nil, false
	}
	return &types.FieldType{Type: t}, true
}

// FieldNames implements common.ResolvedType.
func (f *fields) FieldNames() ([]string, bool) {
	var names []string
	for name := range f.known {
		names = append(names, name)
	}
	return names, true
}

// Val implements common.ResolvedType: variables are not made by expressions.
func (*fields) Val(map[string]ref.Val) ref.Val {
	return types.NewErr("%s cannot be made", variablesType)
}

// requestType describes an AdmissionRequest as expressions see it.
func requestType() *apiservercel.DeclType {
	gvk := object("kubernetes.GroupVersionKind", "group", "version", "kind")
	gvr := object("kubernetes.GroupVersionResource", "group", "version", "resource")
	user := object("kubernetes.UserInfo", "username", "uid")
	add(user, "groups", apiservercel.NewListType(apiservercel.StringType, -1))
	add(user, "extra", apiservercel.NewMapType(apiservercel.StringType, apiservercel.NewListType(apiservercel.StringType, -1), -1))
	t := object("kubernetes.AdmissionRequest", "subResource", "requestSubResource", "name", "namespace", "operation")
	add(t, "kind", gvk)
	add(t, "resource", gvr)
	add(t, "requestKind", gvk)
	add(t, "requestResource", gvr)
	add(t, "userInfo", user)
	add(t, "dryRun", apiservercel.BoolType)
	add(t, "options", apiservercel.DynType)
	return t
}

// namespaceType describes a Namespace as expressions see it.
func namespaceType() *apiservercel.DeclType {
	texts := apiservercel.NewMapType(apiservercel.StringType, apiservercel.StringType, -1)
	list := apiservercel.NewListType(apiservercel.StringType, -1)
	meta := object("kubernetes.NamespaceMetadata", "name", "generateName", "namespace", "resourceVersion")
	add(meta, "labels", texts)
	add(meta, "annotations", texts)
	add(meta, "creationTimestamp", apiservercel.TimestampType)
	add(meta, "deletionTimestamp", apiservercel.TimestampType)
	add(meta, "deletionGracePeriodSeconds", apiservercel.IntType)
	add(meta, "generation", apiservercel.IntType)
	add(meta, "finalizers", list)
	spec := object("kubernetes.NamespaceSpec")
	add(spec, "finalizers", list)
	t := object("kubernetes.Namespace")
	add(t, "metadata", meta)
	add(t, "spec", spec)
	condition := object("kubernetes.NamespaceCondition", "type", "status", "reason", "message")
	add(condition, "lastTransitionTime", apiservercel.TimestampType)
	status := object("kubernetes.NamespaceStatus", "phase")
	add(status, "conditions", apiservercel.NewListType(condition, -1))
	add(t, "status", status)
	return t
}

// object is a type with text fields.
func object(name string, texts ...string) *apiservercel.DeclType {
	t := apiservercel.NewObjectType(name, map[string]*apiservercel.DeclField{})
	for _, f := range texts {
		add(t, f, apiservercel.StringType)
	}
	return t
}

func add(t *apiservercel.DeclType, name string, of *apiservercel.DeclType) {
	t.Fields[name] = apiservercel.NewDeclField(name, of, true, nil, nil)
}

// Types that results of expressions have.
var (
	Bool   = cel.BoolType
	String = cel.StringType
	Null   = cel.NullType
	// Patch is a list of JSON patch operations, Configuration what is applied to an object.
	Patch         = cel.ListType(cel.ObjectType("JSONPatch"))
	Configuration = cel.ObjectType("Object")
)
