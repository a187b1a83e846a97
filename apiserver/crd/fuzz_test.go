// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"encoding/json"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/extension"
)

// FuzzSchema makes kinds of definitions with any schema that validation lets through, and takes any object into them.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{
		`{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string","default":"x","pattern":"^x+$"},"n":{"type":"integer","minimum":1,"format":"int32"}},"required":["a"]}}}`,
		`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`,
		`{"type":"object","properties":{"l":{"type":"array","items":{"type":"object","properties":{"k":{"type":"string"}},"required":["k"]},"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"]}}}`,
		`{"type":"object","properties":{"i":{"x-kubernetes-int-or-string":true},"o":{"type":"object","nullable":true,"additionalProperties":{"type":"number"},"maxProperties":2}}}`,
		`{"type":"object","properties":{"s":{"type":"integer"}},"x-kubernetes-validations":[{"rule":"self.s > 1","message":"no"}]}`,
		`{"type":"object","properties":{"e":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}},"oneOf":[{"required":["e"]}]}`,
	} {
		f.Add([]byte(s), []byte(`{"spec":{"a":"x","n":2,"z":1},"l":[{"k":"a"},{"k":"a"}],"i":"5","o":{"p":1.5},"s":1,"e":{"kind":"X"}}`))
	}
	f.Fuzz(func(t *testing.T, schema, body []byte) {
		var props apiextensionsv1.JSONSchemaProps
		content := map[string]any{}
		if json.Unmarshal(schema, &props) != nil || json.Unmarshal(body, &content) != nil {
			return
		}
		d := definition("things", "Thing")
		d.Status.AcceptedNames = d.Spec.Names
		d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &props},
		}}
		k := extension.CustomResourceDefinitions
		k.Default(d)
		if len(k.ValidateCreate(d)) > 0 {
			return
		}
		hub, _, err := Kinds(d, nil, nil)
		if err != nil {
			return
		}
		content["apiVersion"], content["kind"], content["metadata"] = "example.com/v1", "Thing", map[string]any{"name": "x"}
		u := &unstructured.Unstructured{Object: content}
		if _, err := hub.Custom.Coerce(u); err != nil {
			return
		}
		if hub.Default != nil {
			hub.Default(u)
		}
		if hub.Validate != nil {
			_ = hub.Validate(u)
		}
		if hub.ValidateUpdate != nil {
			_ = hub.ValidateUpdate(u, u.DeepCopy())
		}
		for _, c := range hub.Columns {
			_ = c.Value(u, u.GetCreationTimestamp().Time)
		}
	})
}
