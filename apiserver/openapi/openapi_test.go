// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	gvks "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	explain "k8s.io/kubectl/pkg/explain/v2"
	kubectl "k8s.io/kubectl/pkg/util/openapi"
	"sigs.k8s.io/yaml"

	"knarr.dev/api"
	"knarr.dev/api/apps"
	"knarr.dev/api/authorization"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

func serve(t *testing.T) (*httptest.Server, *discovery.DiscoveryClient) {
	t.Helper()
	s := httptest.NewServer(New(api.Kinds()))
	t.Cleanup(s.Close)
	c, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func get(t *testing.T, s *httptest.Server, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

func parse(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// at returns what a document has at a path of keys.
func at(doc map[string]any, keys ...string) any {
	var v any = doc
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func TestSchemas(t *testing.T) {
	s, _ := serve(t)
	definitions := func(path string, below ...string) map[string]any {
		_, b := get(t, s, path)
		return at(parse(t, b), below...).(map[string]any)
	}
	v2 := definitions("/openapi/v2", "definitions")
	v3 := definitions("/openapi/v3/api/v1", "components", "schemas")
	apps := definitions("/openapi/v3/apis/apps/v1", "components", "schemas")
	for _, c := range []struct {
		name string
		doc  map[string]any
		path string
		want string // JSON
	}{
		{"merged by name", v2, "io.k8s.api.core.v1.PodSpec properties containers x-kubernetes-list-map-keys", `["name"]`},
		{"merged by two", v2, "io.k8s.api.core.v1.Container properties ports x-kubernetes-list-map-keys", `["containerPort","protocol"]`},
		{"strategy", v2, "io.k8s.api.core.v1.PodSpec properties volumes x-kubernetes-patch-strategy", `"merge,retainKeys"`},
		{"merge key", v2, "io.k8s.api.core.v1.PodSpec properties volumes x-kubernetes-patch-merge-key", `"name"`},
		{"atomic", v2, "io.k8s.api.core.v1.Container properties args x-kubernetes-list-type", `"atomic"`},
		{"kind", v2, "io.k8s.api.apps.v1.Deployment x-kubernetes-group-version-kind", `[{"group":"apps","kind":"Deployment","version":"v1"}]`},
		{"quantity in v2", v2, "io.k8s.apimachinery.pkg.api.resource.Quantity type", `"string"`},
		{"quantity in v3", v3, "io.k8s.apimachinery.pkg.api.resource.Quantity oneOf", `[{"type":"string"},{"type":"number"}]`},
		{"int or string in v2", v2, "io.k8s.apimachinery.pkg.util.intstr.IntOrString format", `"int-or-string"`},
		{"int or string in v3", v3, "io.k8s.apimachinery.pkg.util.intstr.IntOrString oneOf", `[{"type":"integer"},{"type":"string"}]`},
		{"time", v2, "io.k8s.apimachinery.pkg.apis.meta.v1.Time format", `"date-time"`},
		{"raw", v2, "io.k8s.apimachinery.pkg.runtime.RawExtension type", `"object"`},
		{"bytes", v2, "io.k8s.api.core.v1.Secret properties data additionalProperties", `{"format":"byte","type":"string"}`},
		{"required", v2, "io.k8s.api.core.v1.Container required", `["name"]`},
		{"inlined", v2, "io.k8s.api.core.v1.Volume properties hostPath $ref", `"#/definitions/io.k8s.api.core.v1.HostPathVolumeSource"`},
		{"union", v2, "io.k8s.api.core.v1.SeccompProfile x-kubernetes-unions",
			`[{"discriminator":"type","fields-to-discriminateBy":{"localhostProfile":"LocalhostProfile"}}]`},
		{"default in v3", v3, "io.k8s.api.core.v1.ServicePort properties protocol default", `"TCP"`},
		{"no default in v2", v2, "io.k8s.api.core.v1.ServicePort properties protocol default", `null`},
		{"enumeration", v3, "io.k8s.api.core.v1.ServicePort properties protocol enum", `["SCTP","TCP","UDP"]`},
		{"reference with default", apps, "io.k8s.api.apps.v1.Deployment properties spec allOf", `[{"$ref":"#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"}]`},
		{"default of a struct", apps, "io.k8s.api.apps.v1.Deployment properties spec default", `{}`},
		{"options of a version", apps, "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions x-kubernetes-group-version-kind",
			`[{"group":"","kind":"DeleteOptions","version":"v1"},{"group":"apps","kind":"DeleteOptions","version":"v1"}]`},
	} {
		got := at(c.doc, strings.Fields(c.path)...)
		if b, _ := json.Marshal(got); string(b) != c.want {
			t.Errorf("%s: %s is %s, want %s", c.name, c.path, b, c.want)
		}
	}
}

// TestDocumentsAreThoseOfKubernetes compares, to the byte, the documents of groups of which all resources are served.
func TestDocumentsAreThoseOfKubernetes(t *testing.T) {
	recorded, err := os.ReadFile("testdata/kubernetes-1.36.txt")
	if err != nil {
		t.Fatal(err)
	}
	kinds := api.Kinds()
	m, all := newModels(kinds), parts(kinds)
	compared := 0
	for line := range strings.Lines(string(recorded)) {
		var name, want string
		var paths int
		if n, _ := fmt.Sscan(line, &name, &paths, &want); n != 3 || all[name].paths == nil {
			continue
		}
		o := outline3(m, all[name])
		if len(o.paths) != paths {
			t.Logf("%s has %d paths of %d", name, len(o.paths), paths)
			continue
		}
		compared++
		if got := hash(o.json3(nil)); got != want {
			t.Errorf("%s differs from Kubernetes'", name)
		}
	}
	if compared < 10 {
		t.Errorf("compared %d documents", compared)
	}
}

func TestOperations(t *testing.T) {
	s, _ := serve(t)
	_, b := get(t, s, "/openapi/v2")
	doc := parse(t, b)
	for _, c := range []struct{ path, method, id, action, description string }{
		{"/api/v1/namespaces/{namespace}/pods", "get", "listCoreV1NamespacedPod", "list", "list or watch objects of kind Pod"},
		{"/api/v1/pods", "get", "listCoreV1PodForAllNamespaces", "list", "list or watch objects of kind Pod"},
		{"/api/v1/namespaces/{namespace}/pods", "delete", "deleteCoreV1CollectionNamespacedPod", "deletecollection", "delete collection of Pod"},
		{"/api/v1/namespaces/{namespace}/pods/{name}", "patch", "patchCoreV1NamespacedPod", "patch", "partially update the specified Pod"},
		{"/api/v1/namespaces/{namespace}/pods/{name}/exec", "post", "connectCoreV1PostNamespacedPodExec", "connect", "connect POST requests to exec of Pod"},
		{"/api/v1/nodes/{name}/proxy/{path}", "head", "connectCoreV1HeadNodeProxyWithPath", "connect", "connect HEAD requests to proxy of Node"},
		{"/api/v1/namespaces/{namespace}/pods/{name}/eviction", "post", "createCoreV1NamespacedPodEviction", "post", "create eviction of a Pod"},
		{"/api/v1/namespaces/{namespace}/bindings", "post", "createCoreV1NamespacedBinding", "post", "create a Binding"},
		{"/api/v1/namespaces/{namespace}/endpoints", "post", "createCoreV1NamespacedEndpoints", "post", "create Endpoints"},
		{"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", "put", "replaceAppsV1NamespacedDeploymentScale", "put", "replace scale of the specified Deployment"},
		{"/apis/rbac.authorization.k8s.io/v1/watch/roles", "get", "watchRbacAuthorizationV1RoleListForAllNamespaces", "watchlist", ""},
		{"/apis/authorization.k8s.io/v1/subjectaccessreviews", "post", "createAuthorizationV1SubjectAccessReview", "post", "create a SubjectAccessReview"},
		{"/apis/apps/", "get", "getAppsAPIGroup", "", "get information of a group"},
		{"/version/", "get", "getCodeVersion", "", ""},
	} {
		op, ok := at(doc, "paths", c.path, c.method).(map[string]any)
		if !ok {
			t.Errorf("%s has no %s", c.path, c.method)
			continue
		}
		action, _ := op["x-kubernetes-action"].(string)
		if op["operationId"] != c.id || action != c.action || c.description != "" && op["description"] != c.description {
			t.Errorf("%s %s is %v, %v, %q; want %s, %s, %q", c.method, c.path, op["operationId"], action, op["description"], c.id, c.action, c.description)
		}
	}
}

// TestProtobufSaysWhatJSONDoes compares our encoder with the library that clients decode with.
func TestProtobufSaysWhatJSONDoes(t *testing.T) {
	kinds := []*resource.Kind{ // few, as the library is slow; they have all that there is
		core.Pods.Kind, core.Services.Kind, core.Nodes.Kind, core.Secrets.Kind, apps.Deployments.Kind, authorization.SubjectAccessReviews.Kind,
	}
	all := parts(kinds)
	o := outline2(newModels(kinds), all)
	want2, err := openapi_v2.ParseDocument(o.json2(nil))
	if err != nil {
		t.Fatal(err)
	}
	got2 := &openapi_v2.Document{}
	if err := proto.Unmarshal(o.proto2(nil), got2); err != nil {
		t.Fatal(err)
	}
	compareMessages(t, "v2", got2, want2)
	for _, name := range []string{"apis", "apis/apps/v1", "openid/v1/jwks"} {
		o := outline3(newModels(kinds), all[name])
		want, err := openapi_v3.ParseDocument(o.json3(nil))
		if err != nil {
			t.Fatal(err)
		}
		got := &openapi_v3.Document{}
		if err := proto.Unmarshal(o.proto3(nil), got); err != nil {
			t.Fatal(err)
		}
		compareMessages(t, name, got, want)
	}
}

// compareMessages compares messages; the YAML in them may be written differently.
func compareMessages(t *testing.T, name string, got, want proto.Message) {
	t.Helper()
	normalize(t, got.ProtoReflect())
	normalize(t, want.ProtoReflect())
	if proto.Equal(got, want) {
		return
	}
	a, b := strings.Split(protojson.Format(got), "\n"), strings.Split(protojson.Format(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			t.Errorf("%s: line %d is %s, want %s", name, i, a[i], b[i])
			return
		}
	}
	t.Errorf("%s: %d lines, want %d", name, len(a), len(b))
}

func normalize(t *testing.T, m protoreflect.Message) {
	if m.Descriptor().Name() == "Any" {
		f := m.Descriptor().Fields().ByName("yaml")
		if b, err := yaml.YAMLToJSON([]byte(m.Get(f).String())); err == nil {
			m.Set(f, protoreflect.ValueOfString(string(b)))
		} else {
			t.Error(err)
		}
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			for i := range v.List().Len() {
				normalize(t, v.List().Get(i).Message())
			}
		case f.Kind() == protoreflect.MessageKind:
			normalize(t, v.Message())
		}
		return true
	})
}

func TestClientsReadTheDocuments(t *testing.T) {
	_, c := serve(t)
	doc, err := c.OpenAPISchema() // v2 as protobuf
	if err != nil {
		t.Fatal(err)
	}
	resources, err := kubectl.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range api.Kinds() {
		if resources.LookupResource(k.GroupVersionKind) == nil {
			t.Errorf("kubectl finds no schema of %s", k.GroupVersionKind)
		}
	}
	if got := resources.GetConsumes(gvks.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, "PATCH"); len(got) != 4 {
		t.Errorf("patches of Deployments are %v", got)
	}
	root := openapi3.NewRoot(c.OpenAPIV3())
	versions, err := root.GroupVersions()
	if err != nil {
		t.Fatal(err)
	}
	for _, gv := range versions {
		spec, err := root.GVSpec(gv)
		if err != nil {
			t.Fatal(err)
		}
		if len(spec.Paths.Paths) == 0 || len(spec.Components.Schemas) == 0 {
			t.Errorf("%s has %d paths and %d schemas", gv, len(spec.Paths.Paths), len(spec.Components.Schemas))
		}
	}
	paths, err := c.OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	b, err := paths["apis/apps/v1"].Schema(proto3Media)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, &openapi_v3.Document{}); err != nil {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	_, c := serve(t)
	for _, e := range []struct {
		resource  gvks.GroupVersionResource
		fields    []string
		recursive bool
		want      []string
	}{
		{gvks.GroupVersionResource{Version: "v1", Resource: "pods"}, []string{"spec", "containers"}, true,
			[]string{"KIND:       Pod", "FIELD: containers <[]Container>", "imagePullPolicy\t<string>", "enum: Always, IfNotPresent, Never", "name\t<string> -required-"}},
		{gvks.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, nil, false,
			[]string{"GROUP:      apps", "Deployment enables declarative updates", "spec\t<DeploymentSpec>"}},
	} {
		var out strings.Builder
		if err := explain.PrintModelDescription(e.fields, &out, c.OpenAPIV3(), e.resource, e.recursive, "plaintext"); err != nil {
			t.Fatal(err)
		}
		for _, want := range e.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("explain %s %v lacks %q:\n%.600s", e.resource.Resource, e.fields, want, out.String())
			}
		}
	}
}

func TestServing(t *testing.T) {
	s, _ := serve(t)
	resp, index := get(t, s, "/openapi/v3")
	if resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the index is %s", resp.Header.Get("Content-Type"))
	}
	url, _ := at(parse(t, index), "paths", "api/v1", "serverRelativeURL").(string)
	fixed, body := get(t, s, url)
	tag := fixed.Header.Get("ETag")
	if !strings.HasPrefix(url, "/openapi/v3/api/v1?hash=") || tag != `"`+strings.TrimPrefix(url, "/openapi/v3/api/v1?hash=")+`"` {
		t.Errorf("address %s, tag %s", url, tag)
	}
	if !strings.Contains(fixed.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("cache control %q", fixed.Header.Get("Cache-Control"))
	}
	for _, c := range []struct {
		name, path, header, value string
		status                    int
		contentType               string
	}{
		{"JSON", "/openapi/v3/api/v1", "Accept", "application/json", 200, "application/json"},
		{"anything", "/openapi/v3/api/v1", "Accept", "*/*", 200, "application/json"},
		{"protobuf of v3", "/openapi/v3/api/v1", "Accept", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", 200, proto3Media},
		{"protobuf of v2", "/openapi/v2", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", 200, proto2Media},
		{"what there is not", "/openapi/v3/api/v1", "Accept", "application/yaml", 406, ""},
		{"weights", "/openapi/v2", "Accept", proto2Media + ";q=0.5, application/json", 200, "application/json"},
		{"unchanged", "/openapi/v3/api/v1", "If-None-Match", tag, 304, ""},
		{"old hash", "/openapi/v3/api/v1?hash=OLD", "Accept", "application/json", 301, "application/json"},
		{"unknown", "/openapi/v3/apis/nothing", "Accept", "application/json", 404, ""},
		{"no name", "/openapi/v3/", "Accept", "application/json", 404, ""},
		{"not newer", "/openapi/v3/api/v1", "If-Modified-Since", "Fri, 21 Nov 2126 00:00:00 GMT", 304, ""},
		{"part of v2", "/openapi/v2", "Range", "bytes=0-9", 206, "application/json"},
		{"part of the index", "/openapi/v3", "Range", "bytes=0-9", 206, "text/plain; charset=utf-8"},
		{"beyond the end", "/openapi/v3/api/v1", "Range", "bytes=999999999-", 416, "text/plain; charset=utf-8"},
	} {
		resp, _ := get(t, s, c.path, c.header, c.value)
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.contentType {
			t.Errorf("%s: %d %s, want %d %s", c.name, resp.StatusCode, resp.Header.Get("Content-Type"), c.status, c.contentType)
		}
	}
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1"} {
		resp, _ := get(t, s, path)
		if _, err := http.ParseTime(resp.Header.Get("Last-Modified")); err != nil || resp.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
	_, parts := get(t, s, url, "Range", "bytes=100-199,20-39")
	if text := string(parts); !strings.Contains(text, string(body[100:200])) || !strings.Contains(text, string(body[20:40])) {
		t.Errorf("parts of the document are %s", text)
	}
	resp, compressed := get(t, s, url, "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(strings.NewReader(string(compressed)))
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(resp.Header, err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != string(body) {
		t.Errorf("compressed and plain differ: %v", err)
	}
}

func TestCustomKinds(t *testing.T) {
	k := &resource.Kind{
		GroupVersionKind: gvks.GroupVersionKind{Group: "stable.example.com", Version: "v1", Kind: "CronTab"}, Resource: "crontabs", Scope: resource.Namespaced,
		New: func() resource.Object { return &unstructured.Unstructured{} }, Status: &resource.KindStatus{},
	}
	s := httptest.NewServer(New([]*resource.Kind{core.ConfigMaps.Kind, k}))
	defer s.Close()
	_, b := get(t, s, "/openapi/v3/apis/stable.example.com/v1")
	v3 := parse(t, b)
	const name = "com.example.stable.v1.CronTab"
	for _, c := range []struct {
		path []string
		want string // JSON
	}{
		{[]string{"components", "schemas", name, "x-kubernetes-group-version-kind"}, `[{"group":"stable.example.com","kind":"CronTab","version":"v1"}]`},
		{[]string{"components", "schemas", name + "List", "x-kubernetes-group-version-kind"}, `[{"group":"stable.example.com","kind":"CronTabList","version":"v1"}]`},
		{[]string{"components", "schemas", name + "List", "properties", "items", "items"}, `{"$ref":"#/components/schemas/` + name + `"}`},
		{[]string{"components", "schemas", name, "x-kubernetes-preserve-unknown-fields"}, `true`},
		{[]string{"paths", "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}/status", "get", "operationId"}, `"readStableExampleComV1NamespacedCronTabStatus"`},
		{[]string{"paths", "/apis/stable.example.com/v1/crontabs", "get", "tags"}, `["stableExampleCom_v1"]`},
	} {
		if b, _ := json.Marshal(at(v3, c.path...)); string(b) != c.want {
			t.Errorf("%v is %s, want %s", c.path, b, c.want)
		}
	}
	_, v2 := get(t, s, "/openapi/v2")
	doc, err := openapi_v2.ParseDocument(v2)
	if err != nil {
		t.Fatal(err)
	}
	resources, err := kubectl.NewOpenAPIData(doc)
	if err != nil || resources.LookupResource(k.GroupVersionKind) == nil {
		t.Errorf("kubectl finds no schema of a custom kind: %v", err)
	}
}

func TestSetReplacesTheKinds(t *testing.T) {
	h := New([]*resource.Kind{core.ConfigMaps.Kind, core.Secrets.Kind, apps.ReplicaSets.Kind})
	before := h.current.Load()
	same, other := form{name: "apis/apps/v1"}, form{name: "api/v1"}
	kept, _ := before.get(same), before.get(other)
	before.list()
	h.Set([]*resource.Kind{core.ConfigMaps.Kind, apps.ReplicaSets.Kind})
	now := h.current.Load()
	if now.get(same) != kept {
		t.Error("the document of an unchanged group was built again")
	}
	if now.get(other).etag == before.get(other).etag {
		t.Error("the document of a changed group is the same")
	}
	if string(now.list()) == string(before.list()) {
		t.Error("the index is the same")
	}
}
