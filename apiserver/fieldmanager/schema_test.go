// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"knarr.dev/api"
	"knarr.dev/api/core"
)

var update = flag.Bool("update", false, "rewrite schema.jsonl from the published schema")

// described are the types of the kinds that client-go has not, from the OpenAPI definitions of their modules.
func described(t *testing.T) []smd.TypeDef {
	t.Helper()
	ref := func(name string) spec.Ref { return spec.MustCreateRef("#/components/schemas/" + name) }
	var out []smd.TypeDef
	for prefix, all := range map[string]map[string]common.OpenAPIDefinition{
		"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.": extensions.GetOpenAPIDefinitions(ref),
		"io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.":       aggregator.GetOpenAPIDefinitions(ref),
	} {
		models := map[string]*spec.Schema{}
		for name, def := range all {
			models[name] = &def.Schema
		}
		made, err := schemaconv.ToSchemaFromOpenAPI(models, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, def := range made.Types {
			if m := def.Map; m != nil { // made from a Go map, in no order
				slices.SortFunc(m.Fields, func(a, b smd.StructField) int { return strings.Compare(a.Name, b.Name) })
			}
			if strings.HasPrefix(def.Name, prefix) {
				out = append(out, def)
			}
		}
	}
	slices.SortFunc(out, func(a, b smd.TypeDef) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// published is the schema of client-go with that of what it lacks: definitions of resources, and scales.
func published(t *testing.T) []smd.TypeDef {
	t.Helper()
	v, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(withKind(new(corev1.Pod), corev1.SchemeGroupVersion.WithKind("Pod")))
	if err != nil {
		t.Fatal(err)
	}
	scalar := func(s smd.Scalar) smd.TypeRef { return smd.TypeRef{Inlined: smd.Atom{Scalar: &s}} }
	named := func(name string) smd.TypeRef { return smd.TypeRef{NamedType: &name} }
	object := func(name string, fields ...smd.StructField) smd.TypeDef {
		return smd.TypeDef{Name: name, Atom: smd.Atom{Map: &smd.Map{Fields: fields}}}
	}
	field := func(name string, ref smd.TypeRef) smd.StructField { return smd.StructField{Name: name, Type: ref} }
	specName, statusName := autoscalingv1.ScaleSpec{}.OpenAPIModelName(), autoscalingv1.ScaleStatus{}.OpenAPIModelName()
	types := append(v.Schema().Types, described(t)...)
	return append(types,
		object(autoscalingv1.Scale{}.OpenAPIModelName(), field("apiVersion", scalar(smd.String)), field("kind", scalar(smd.String)),
			field("metadata", named(metav1.ObjectMeta{}.OpenAPIModelName())), field("spec", named(specName)), field("status", named(statusName))),
		object(specName, field("replicas", scalar(smd.Numeric))),
		object(statusName, field("replicas", scalar(smd.Numeric)), field("selector", scalar(smd.String))))
}

func write(a smd.Atom) (out schemaAtom) {
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if a.List != nil {
		out.List = &schemaList{Elem: writeRef(a.List.ElementType), How: string(a.List.ElementRelationship), Keys: a.List.Keys}
	}
	if a.Map == nil {
		return out
	}
	out.Map = &schemaMap{How: string(a.Map.ElementRelationship)}
	for _, f := range a.Map.Fields {
		out.Map.Fields = append(out.Map.Fields, schemaField{Name: f.Name, schemaRef: writeRef(f.Type), Default: writeDefault(f.Default)})
	}
	if e := writeRef(a.Map.ElementType); e != (schemaRef{}) {
		out.Map.Elem = &e
	}
	return out
}

func writeDefault(v any) any {
	m, ok := v.(map[any]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, v := range m {
		out[k.(string)] = writeDefault(v)
	}
	return out
}

func writeRef(r smd.TypeRef) schemaRef {
	out := schemaRef{schemaAtom: write(r.Inlined)}
	if r.NamedType != nil {
		out.Type = *r.NamedType
	}
	if r.ElementRelationship != nil {
		out.How = string(*r.ElementRelationship)
	}
	return out
}

func TestSchema(t *testing.T) {
	want := published(t)
	if *update {
		var b bytes.Buffer
		encoder := json.NewEncoder(&b)
		for _, def := range want {
			if err := encoder.Encode(schemaType{Name: def.Name, schemaAtom: write(def.Atom)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile("schema.jsonl", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		schemaText = b.Bytes()
	}
	got, err := readSchema()
	if err != nil {
		t.Fatal(err)
	}
	got = got[:len(got)-bytes.Count(reviewsText, []byte("\n"))]
	if len(got) != len(want) {
		t.Fatalf("%d types, want %d: run with -update", len(got), len(want))
	}
	for i := range want {
		a, _ := json.Marshal(write(got[i].Atom))
		b, _ := json.Marshal(write(want[i].Atom))
		if got[i].Name != want[i].Name || !bytes.Equal(a, b) {
			t.Errorf("%s is\n%s\nwant %s\n%s", got[i].Name, a, want[i].Name, b)
		}
	}
}

// TestKindsHaveSchema makes sure that the fast way is open to all kinds.
func TestKindsHaveSchema(t *testing.T) {
	f := New(api.Kinds())
	for _, kind := range api.Kinds() {
		if kind.Virtual && len(kind.Verbs) == 1 && kind.Verbs[0] != "create" || kind.Kind == "ComponentStatus" {
			continue
		}
		m, err := f.Of(kind, "")
		if err != nil || m.fast == nil || m.fast.plan.form != object {
			t.Errorf("%s: no plan: %v", kind.GroupVersionKind, err)
		}
	}
}

func BenchmarkReadSchema(b *testing.B) {
	for b.Loop() {
		if _, err := readSchema(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFirstPod(b *testing.B) {
	for b.Loop() {
		if m, err := New(api.Kinds()).Of(core.Pods.Kind, ""); err != nil || m.fast == nil {
			b.Fatal(err)
		}
	}
}
