// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package fieldmanager

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"knarr.dev/api"
	"knarr.dev/api/core"
)

var update = flag.Bool("update", false, "rewrite schema.jsonl from the published schema")

// published is the schema of client-go with that of scales, which it lacks.
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
	spec, status := autoscalingv1.ScaleSpec{}.OpenAPIModelName(), autoscalingv1.ScaleStatus{}.OpenAPIModelName()
	return append(v.Schema().Types,
		object(autoscalingv1.Scale{}.OpenAPIModelName(), field("apiVersion", scalar(smd.String)), field("kind", scalar(smd.String)),
			field("metadata", named(metav1.ObjectMeta{}.OpenAPIModelName())), field("spec", named(spec)), field("status", named(status))),
		object(spec, field("replicas", scalar(smd.Numeric))),
		object(status, field("replicas", scalar(smd.Numeric)), field("selector", scalar(smd.String))))
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
		if kind.Virtual {
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
