// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"fmt"
	"slices"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// another is the document of a server of group name; its Status is described in other words than ours.
func another(t *testing.T, name string, own map[string]any, words string) Remote {
	t.Helper()
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	doc := fmt.Sprintf(`{"swagger":"2.0","info":{"title":"other","version":"1"},"paths":{
		"/healthz":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/OnlyHealthz"}}}}},
		"/apis/":{"get":{"description":"not ours","responses":{"200":{"description":"OK"}}}},
		"/apis/%[1]s/v1/things":{"post":{"parameters":[{"$ref":"#/parameters/pretty-x"},{"in":"body","name":"body","schema":{"$ref":"#/definitions/%[1]s.Thing"}}],
			"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/%[2]sStatus"}}}}}},
		"definitions":{"OnlyHealthz":{"type":"object"},
		"%[1]s.Thing":{"type":"object","properties":{"metadata":{"$ref":"#/definitions/%[2]sObjectMeta"},"options":{"$ref":"#/definitions/%[2]sDeleteOptions"}}},
		"%[2]sObjectMeta":%[3]s,"%[2]sDeleteOptions":%[4]s,"%[2]sStatus":{"description":"%[5]s","type":"object"}},
		"parameters":{"pretty-x":{"in":"query","name":"pretty","type":"string"}}}`,
		name, meta, encoded(at(own, "definitions", meta+"ObjectMeta")),
		encoded(map[string]any{
			"description": at(own, "definitions", meta+"DeleteOptions", "description"), "type": "object",
			"properties":                      at(own, "definitions", meta+"DeleteOptions", "properties"),
			"x-kubernetes-group-version-kind": []any{map[string]any{"group": name, "version": "v1", "kind": "DeleteOptions"}},
		}), words)
	parse(t, []byte(doc))
	return Remote{Name: "apis/" + name + "/v1", V2: compress([]byte(doc))}
}

func TestOtherServersAreInTheDocumentOfV2(t *testing.T) {
	kinds := []*resource.Kind{core.ConfigMaps.Kind}
	all := parts(kinds)
	plain := outline2(newModels(kinds), all)
	own := parse(t, plain.json2(nil))
	o := outline2(newModels(kinds), all)
	o.join([]Remote{another(t, "a.example.com", own, "other words"), another(t, "b.example.com", own, "other words"),
		another(t, "c.example.com", own, "third words"), {Name: "none"}, {Name: "bad", V2: compress([]byte("{"))}, {Name: "worse", V2: []byte("x")}})
	raw := o.json2(nil)
	doc := parse(t, raw)
	for name := range at(own, "paths").(map[string]any) {
		if encoded(at(doc, "paths", name)) != encoded(at(own, "paths", name)) {
			t.Errorf("path %s has changed", name)
		}
	}
	const meta = "io.k8s.apimachinery.pkg.apis.meta.v1."
	for group, status := range map[string]string{"a.example.com": meta + "Status_v2", "b.example.com": meta + "Status_v2", "c.example.com": meta + "Status_v3"} {
		got := at(doc, "paths", "/apis/"+group+"/v1/things", "post", "responses", "200", "schema", "$ref")
		if got != "#/definitions/"+status || at(doc, "definitions", status) == nil || at(doc, "definitions", group+".Thing") == nil {
			t.Errorf("%s answers with %v", group, got)
		}
	}
	for _, name := range []string{meta + "Status", meta + "ObjectMeta"} {
		if encoded(at(doc, "definitions", name)) != encoded(at(own, "definitions", name)) {
			t.Errorf("definition %s has changed", name)
		}
	}
	if at(doc, "definitions", meta+"ObjectMeta_v2") != nil || at(doc, "definitions", "OnlyHealthz") != nil || at(doc, "paths", "/healthz") != nil {
		t.Error("there is more than needed")
	}
	kindsOf := func(d map[string]any) []any {
		return at(d, "definitions", meta+"DeleteOptions", kindsKey).([]any)
	}
	if got, want := len(kindsOf(doc)), len(kindsOf(own))+3; got != want {
		t.Errorf("DeleteOptions have %d kinds, want %d", got, want)
	}
	if at(doc, "parameters", "pretty-x") == nil {
		t.Error("parameters are missing")
	}
	want, err := openapi_v2.ParseDocument(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := &openapi_v2.Document{}
	if err := proto.Unmarshal(o.proto2(nil), got); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*openapi_v2.Document{got, want} { // their order means nothing
		slices.SortFunc(d.Definitions.AdditionalProperties, func(a, b *openapi_v2.NamedSchema) int { return compareNames(a, b) })
		slices.SortFunc(d.Paths.Path, func(a, b *openapi_v2.NamedPathItem) int { return compareNames(a, b) })
	}
	compareMessages(t, "v2", got, want)
}

func compareNames[T interface{ GetName() string }](a, b T) int {
	switch {
	case a.GetName() < b.GetName():
		return -1
	case a.GetName() > b.GetName():
		return 1
	}
	return 0
}

func TestRemotesComeAndGo(t *testing.T) {
	h := New([]*resource.Kind{core.ConfigMaps.Kind})
	before := h.current.Load().get(form{})
	own := parse(t, outline2(newModels(h.current.Load().kinds), parts(h.current.Load().kinds)).json2(nil))
	h.SetRemotes([]Remote{{Name: "apis/x/v1", Address: "/openapi/v3/apis/x/v1?hash=1"}})
	if h.current.Load().get(form{}) != before {
		t.Error("the document was built again for a server without one")
	}
	h.SetRemotes([]Remote{another(t, "a.example.com", own, "other words")})
	joined := h.current.Load().get(form{})
	if joined.etag == before.etag {
		t.Error("the document is as before")
	}
	h.SetRemotes(nil)
	if h.current.Load().get(form{}).etag != before.etag {
		t.Error("the document is not as it was first")
	}
}
