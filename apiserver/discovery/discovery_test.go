// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package discovery_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"knarr.dev/api"
	knarr "knarr.dev/apiserver/discovery"
)

const aggregated = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList"

func get(t *testing.T, h http.Handler, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestForms(t *testing.T) {
	h := knarr.New(api.Kinds(), "10.0.0.1:6443")
	for _, c := range []struct {
		path, accept string
		status       int
		contentType  string
		has          string
	}{
		{"/api", "", 200, "application/json", `"serverAddress":"10.0.0.1:6443"`},
		{"/api/", "", 200, "application/json", `"versions":["v1"]`},
		{"/apis", aggregated + ",application/json", 200, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", `"APIGroupDiscoveryList"`},
		{"/apis", strings.Replace(aggregated, "v2", "v2beta1", 1) + ",application/json", 200, "application/json", `"APIGroupList"`},
		{"/apis", strings.Replace(aggregated, "v2", "v9", 1), 406, "application/json", "only the following media types are accepted"},
		{"/api/v1", aggregated, 406, "application/json", "NotAcceptable"},
		{"/apis/apps", aggregated + ",application/json", 200, "application/json", `"preferredVersion":{"groupVersion":"apps/v1","version":"v1"}`},
		{"/apis/apps", "application/yaml", 200, "application/yaml", "kind: APIGroup\n"},
		{"/apis", strings.Replace(aggregated, "json", "vnd.kubernetes.protobuf", 1), 200, "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "k8s\x00"},
		{"/apis", "text/plain", 406, "application/json", "NotAcceptable"},
		{"/apis/rbac.authorization.k8s.io/v1", "", 200, "application/json", `"storageVersionHash":"7FuwZcIIItM="`},
		{"/apis/apps/v1", "", 200, "application/json", `{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}`},
		{"/api/v1", "", 200, "application/json", `{"name":"bindings","singularName":"binding","namespaced":true,"kind":"Binding","verbs":["create"]}`},
		{"/api", "", 200, "application/json", `{"kind":"APIVersions","versions":["v1"],`},
		{"/api/v1", "", 200, "application/json", `{"kind":"APIResourceList","groupVersion":"v1",`},
		{"/apis/apps?pretty=1", "", 200, "application/json", "{\n  \"kind\": \"APIGroup\",\n"},
		{"/api/v2", "", 404, "application/json", "the server could not find the requested resource"},
		{"/apis/policy/v1beta1", "", 404, "application/json", "the server could not find the requested resource"},
		{"/apis/batch/v1beta1/cronjobs", "", 404, "application/json", "the server could not find the requested resource"},
		{"/apis/nope", "", 404, "text/plain; charset=utf-8", "404 page not found"},
	} {
		w := get(t, h, c.path, "Accept", c.accept)
		if w.Code != c.status || w.Header().Get("Content-Type") != c.contentType || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s as %q: %d %s\n%.300s\nwant %d %s with %s", c.path, c.accept, w.Code, w.Header().Get("Content-Type"), w.Body, c.status, c.contentType, c.has)
		}
	}
}

func TestETag(t *testing.T) {
	h := knarr.New(api.Kinds(), "")
	first := get(t, h, "/apis", "Accept", aggregated)
	tag := first.Header().Get("ETag")
	if tag == "" || first.Header().Get("Vary") != "Accept" {
		t.Fatalf("headers %v", first.Header())
	}
	if w := get(t, h, "/apis", "Accept", aggregated, "If-None-Match", tag); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("got %d with %d bytes for the same tag", w.Code, w.Body.Len())
	}
	h.Set(api.Kinds()[:12])
	if w := get(t, h, "/apis", "Accept", aggregated, "If-None-Match", tag); w.Code != http.StatusOK {
		t.Errorf("got %d for the tag of other kinds", w.Code)
	}
}

func TestOrder(t *testing.T) {
	kinds := api.Kinds()
	var names []string
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(get(t, knarr.New(kinds, ""), "/apis", "Accept", aggregated).Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	for _, g := range list.Items {
		names = append(names, g.Name)
	}
	got := strings.Join(names, " ")
	if !strings.HasPrefix(got, "apiregistration.k8s.io apps events.k8s.io authentication.k8s.io authorization.k8s.io ") {
		t.Errorf("groups are in the order %s", got)
	}
}

// TestOrderOfOthers puts groups of other servers where their priority says, none of them before that of APIServices.
func TestOrderOfOthers(t *testing.T) {
	h := knarr.New(api.Kinds(), "")
	h.SetRemotes([]knarr.Remote{{Group: "first.io", Version: "v1", GroupPriority: 20000}, {Group: "between.io", Version: "v1", GroupPriority: 16900}})
	var list metav1.APIGroupList
	if err := json.Unmarshal(get(t, h, "/apis").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range list.Groups {
		names = append(names, g.Name)
	}
	got := strings.Join(names, " ")
	if !strings.HasPrefix(got, "apiregistration.k8s.io first.io apps ") || !strings.Contains(got, " rbac.authorization.k8s.io between.io storage.k8s.io ") {
		t.Errorf("groups are in the order %s", got)
	}
}

// TestDescribedByOthers takes the aggregated form of another server as it is, and makes one of its plain list if there is none.
func TestDescribedByOthers(t *testing.T) {
	plain := &metav1.APIResourceList{APIResources: []metav1.APIResource{{Name: "a", Kind: "A", Verbs: metav1.Verbs{"get"}}}}
	whole := &apidiscoveryv2.APIVersionDiscovery{Version: "v1", Freshness: apidiscoveryv2.DiscoveryFreshnessStale, Resources: []apidiscoveryv2.APIResourceDiscovery{
		{Resource: "b", Subresources: []apidiscoveryv2.APISubresourceDiscovery{{Subresource: "s", AcceptedTypes: []metav1.GroupVersionKind{{Kind: "K"}}}}},
	}}
	for _, c := range []struct {
		name   string
		remote knarr.Remote
		want   string
	}{
		{"nothing yet", knarr.Remote{}, `{"version":"v1","freshness":"Stale"}`},
		{"plain", knarr.Remote{Available: true, Resources: plain}, `{"version":"v1","resources":[{"resource":"a",` +
			`"responseKind":{"group":"","version":"","kind":"A"},"scope":"Cluster","singularResource":"","verbs":["get"]}],"freshness":"Current"}`},
		{"aggregated", knarr.Remote{Available: true, Resources: plain, Described: whole}, `{"version":"v1","resources":[{"resource":"b","scope":"",` +
			`"singularResource":"","verbs":null,"subresources":[{"subresource":"s","acceptedTypes":[{"group":"","version":"","kind":"K"}],"verbs":null}]}],"freshness":"Current"}`},
	} {
		c.remote.Group, c.remote.Version = "x.io", "v1"
		h := knarr.New(api.Kinds(), "")
		h.SetRemotes([]knarr.Remote{c.remote})
		if got := get(t, h, "/apis", "Accept", aggregated).Body.String(); !strings.Contains(got, `"versions":[`+c.want+"]") {
			_, after, _ := strings.Cut(got, `"x.io"`)
			t.Errorf("%s: %.600s\nwant %s", c.name, after, c.want)
		}
		if w := get(t, h, "/apis/x.io"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"groupVersion":"x.io/v1"`) {
			t.Errorf("%s: the group: %d %s", c.name, w.Code, w.Body)
		}
	}
}

// TestClient reads the documents as kubectl does.
func TestClient(t *testing.T) {
	server := httptest.NewServer(knarr.New(api.Kinds(), ""))
	defer server.Close()
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, legacy := range []bool{false, true} {
		client.UseLegacyDiscovery = legacy
		groups, lists, err := client.ServerGroupsAndResources()
		if err != nil || len(groups) < 5 || len(lists) < 5 {
			t.Fatalf("%d groups, %d lists, %v", len(groups), len(lists), err)
		}
		if groups[0].Name != "" || groups[1].Name != "apiregistration.k8s.io" {
			t.Errorf("groups start with %q, %q", groups[0].Name, groups[1].Name)
		}
	}
}
