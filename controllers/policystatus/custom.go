// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package policystatus

import (
	"reflect"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"knarr.dev/api/expression"
)

// customType is the type of custom resources with a schema; nil if that says nothing about fields. What all objects have is added.
func customType(schema *apiextensionsv1.JSONSchemaProps, root string) *apiservercel.DeclType {
	props := &apiextensions.JSONSchemaProps{}
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(schema, props, nil); err != nil {
		return nil
	}
	made, err := structural.NewStructural(props)
	if err != nil { // the definition is served without it too
		return nil
	}
	declared := model.SchemaDeclType(made, false)
	if declared == nil || !declared.IsObject() {
		return nil
	}
	fields := map[string]*apiservercel.DeclField{}
	for name, f := range declared.MaybeAssignTypeName(root).Fields {
		fields[name] = f
	}
	for name, t := range map[string]*apiservercel.DeclType{
		"apiVersion": apiservercel.StringType, "kind": apiservercel.StringType,
		"metadata": expression.TypeOf(reflect.TypeFor[metav1.ObjectMeta](), root+".metadata"),
	} {
		fields[name] = apiservercel.NewDeclField(name, t, name != "metadata", nil, nil)
	}
	return apiservercel.NewObjectType(root, fields)
}
