// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/core"
	"knarr.dev/apiserver/fieldmanager"
	"knarr.dev/apiserver/table"
)

// FuzzBody decodes bodies as every kind, in every media type.
func FuzzBody(f *testing.F) {
	for _, s := range []string{`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`, "a: &a [*a]", "k8s\x00\x0a\x02", "[]", `{"spec":{"ports":[{"targetPort":"x"}]}}`} {
		f.Add(uint8(0), uint8(0), []byte(s))
	}
	kinds, all := api.Kinds(), []string{codec.JSON, codec.YAML, codec.Proto}
	f.Fuzz(func(t *testing.T, kind, media uint8, body []byte) {
		k, m := kinds[int(kind)%len(kinds)], all[int(media)%len(all)]
		_, _ = codec.PeekKind(m, body)
		obj := k.New()
		if _, err := codec.Decode(m, body, obj); err != nil {
			return
		}
		if k.Default != nil {
			k.Default(obj)
		}
		if k.PrepareCreate != nil {
			k.PrepareCreate(obj)
		}
		if k.Validate != nil {
			_ = k.Validate(obj)
		}
		if k.ValidateCreate != nil {
			_ = k.ValidateCreate(obj)
		}
		if k.Warnings != nil {
			_ = k.Warnings(obj)
		}
		_ = newMetaProblems(k, obj)
	})
}

// FuzzPatch applies patches of every type to a Pod.
func FuzzPatch(f *testing.F) {
	all := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	for i, s := range []string{
		`[{"op":"add","path":"/metadata/labels","value":{"a":"b"}},{"op":"move","from":"/spec","path":"/x"}]`, `{"metadata":{"labels":{"a":null}}}`,
		`{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["containers"]}}`,
		"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, env: [{name: x}]}]}",
	} {
		f.Add(uint8(i), []byte(s))
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}}
	core.Pods.Default(pod)
	server := &Server{fields: fieldmanager.New(api.Kinds())}
	r := &registry{server: server, kind: core.Pods.Kind, hub: core.Pods.Kind}
	f.Fuzz(func(t *testing.T, kind uint8, patch []byte) {
		o := &operation{Request: &call.Request{
			Verb: "patch", Kind: core.Pods.Kind, Namespace: "n", Name: "p", PatchType: all[int(kind)%len(all)], Patch: patch, FieldManager: "fuzz",
		}}
		obj, err := r.patched(o, pod)
		if err == nil && (obj.GetName() != "p" || obj.GetNamespace() != "n") {
			t.Errorf("patched another object: %s/%s", obj.GetNamespace(), obj.GetName())
		}
	})
}

// FuzzQuery reads paths, queries, selectors and headers.
func FuzzQuery(f *testing.F) {
	f.Add("/api/v1/namespaces/a/pods/b/log", "labelSelector=a+in+(b,c),!d&fieldSelector=metadata.name%3Da&limit=5&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhIn0", "application/json;as=Table;v=v1;g=meta.k8s.io,*/*;q=0.1", "application/yaml; charset=x")
	f.Add("//api//", "watch&dryRun=All&gracePeriodSeconds=-1&pretty=x&propagationPolicy=", ";;,q=", "")
	f.Fuzz(func(t *testing.T, path, query, accept, media string) {
		u := &url.URL{Path: path, RawQuery: query}
		r := &http.Request{Method: http.MethodGet, URL: u, Header: http.Header{"Accept": {accept}, "Content-Type": {media}}}
		info := parseRequest(r)
		_ = info.attributes()
		_ = segment(info)
		_, _ = negotiate(r, offer{proto: true})
		_, _ = negotiateWatch(r, offer{})
		_ = errorForm(r)
		_, _ = bodyMedia(r)
		_, _ = patchType(r, core.Pods.Kind)
		values := u.Query()
		q := &call.Request{Verb: "list", Kind: core.Pods.Kind}
		if listOptions(q, values) == nil {
			if q.Labels != nil {
				_ = q.Labels.String()
			}
			_, _, _ = decodeContinue(q.Continue, "/registry/pods/")
			reg := &registry{kind: core.Pods.Kind, hub: core.Pods.Kind}
			if reg.checkListOptions(q, false) == nil {
				if match := reg.matcher(q); match != nil {
					_ = match(&corev1.Pod{})
				}
			}
		}
		for _, verb := range []string{"create", "update", "patch"} {
			_ = writeOptions(&call.Request{Verb: verb}, values)
		}
		_ = patchOptions(&call.Request{PatchType: types.MergePatchType}, values)
		_ = deleteOptions(&call.Request{}, r, nil)
		_, _ = table.ParseInclude(values.Get("includeObject"))
	})
}

// FuzzDeleteOptions reads the bodies of deletions.
func FuzzDeleteOptions(f *testing.F) {
	f.Add(codec.JSON, []byte(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"a"}}`))
	f.Add(codec.YAML, []byte("propagationPolicy: Orphan"))
	f.Add(codec.Proto, []byte("k8s\x00\x0a\x00"))
	f.Fuzz(func(t *testing.T, media string, body []byte) {
		r := httptest.NewRequest(http.MethodDelete, "/", strings.NewReader(""))
		r.Header.Set("Content-Type", media)
		q := &call.Request{}
		if deleteOptions(q, r, body) == nil && q.Delete == nil {
			t.Error("no options")
		}
	})
}

// FuzzWarning quotes texts for headers.
func FuzzWarning(f *testing.F) {
	f.Add("unknown field \"a\\b\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if quoted := quoteWarning(text); strings.ContainsAny(quoted, "\r\n\x00") {
			t.Errorf("header %q", quoted)
		}
	})
}
