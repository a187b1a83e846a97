// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// step is one request and what must come of it.
type step struct {
	do, agent, media, body string
	code                   int
	// owners, if set, are the managedFields as "manager operation subresource fields" lines; message that of a Status.
	owners  []string
	message string
	causes  []string
	warning string
	same    bool // the resourceVersion stays
}

const (
	merge  = "application/merge-patch+json"
	apply  = "application/apply-patch+yaml"
	plain  = "application/json"
	maps   = "/api/v1/namespaces/default/configmaps"
	oneMap = maps + "/a"
	sets   = "/apis/apps/v1/namespaces/default/replicasets"
)

const replicaSet = `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"r"},"spec":{"selector":{"matchLabels":{"a":"b"}},` +
	`"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`

func TestFieldOwners(t *testing.T) {
	for name, steps := range map[string][]step{
		"create and patches": {
			{do: "POST " + maps, agent: "tool/v1 (linux)", body: `{"metadata":{"name":"a","labels":{"l":"1"}},"data":{"k":"v"}}`, code: 201,
				owners: []string{`tool Update  {"f:data":{".":{},"f:k":{}},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}`}},
			{do: "PATCH " + oneMap + "?fieldManager=beta", media: merge, body: `{"data":{"k":"w"}}`, code: 200, owners: []string{
				`beta Update  {"f:data":{"f:k":{}}}`,
				`tool Update  {"f:data":{},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}`}},
			{do: "PATCH " + oneMap + "?fieldManager=beta", media: merge, body: `{"data":{"k":"w"}}`, code: 200, same: true},
			{do: "PATCH " + oneMap, agent: "-", media: merge, body: `{"data":{"x":"y"}}`, code: 200, owners: []string{
				`beta Update  {"f:data":{"f:k":{}}}`,
				`tool Update  {"f:data":{},"f:metadata":{"f:labels":{".":{},"f:l":{}}}}`,
				`unknown Update  {"f:data":{"f:x":{}}}`}},
			{do: "PATCH " + oneMap, media: merge, body: `{"metadata":{"managedFields":[{}]}}`, code: 200, owners: []string{}},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"new"}}`, code: 409,
				message: `Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.k`,
				causes:  []string{`FieldManagerConflict .data.k conflict with "before-first-apply" using v1`}},
		},
		"apply": {
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, l: v}\n", code: 201,
				owners: []string{`one Apply  {"f:data":{"f:k":{},"f:l":{}}}`}},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, l: v}\n", code: 200, same: true},
			{do: "PATCH " + oneMap + "?fieldManager=two", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"w","l":"w"}}`, code: 409,
				message: "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.k\n- .data.l",
				causes:  []string{`FieldManagerConflict .data.k conflict with "one"`, `FieldManagerConflict .data.l conflict with "one"`}},
			{do: "PATCH " + oneMap + "?fieldManager=two", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"v"}}`, code: 200,
				owners: []string{`one Apply  {"f:data":{"f:k":{},"f:l":{}}}`, `two Apply  {"f:data":{"f:k":{}}}`}},
			{do: "PATCH " + oneMap + "?fieldManager=two&force=true", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","data":{"k":"w"}}`, code: 200,
				owners: []string{`one Apply  {"f:data":{"f:l":{}}}`, `two Apply  {"f:data":{"f:k":{}}}`}},
			{do: "PATCH " + oneMap + "?fieldManager=two", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap"}`, code: 200,
				owners: []string{`one Apply  {"f:data":{"f:l":{}}}`}},
		},
		"apply refused": {
			{do: "PATCH " + oneMap, media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap"}`, code: 422,
				message: `PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch`},
			{do: "PATCH " + oneMap + "?fieldManager=one&force=true", media: merge, body: `{}`, code: 422,
				message: `PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch`},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: `{"metadata":{"name":"a"}}`, code: 400, message: "invalid object type: /, Kind="},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`, code: 400,
				message: "the name of the object (b) does not match the name on the URL (a)"},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"bogus":1}`, code: 500,
				message: "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .bogus: field not declared in schema"},
			{do: "PATCH " + oneMap + "?fieldManager=one", media: apply, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[]}}`, code: 400,
				message: "metadata.managedFields must be nil"},
			{do: "PATCH " + oneMap + "?fieldManager=one&fieldValidation=Strict", media: apply, body: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: v\n  k: v\n", code: 400,
				message: "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 6: key \"k\" already set in map"},
			{do: "PATCH " + oneMap + "?fieldManager=one&dryRun=All", media: apply, body: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: v\n  k: v\n", code: 201,
				warning: `299 - "line 6: key \"k\" already set in map"`},
			{do: "GET " + oneMap, code: 404},
		},
		"made by the server": {
			{do: "GET /apis/networking.k8s.io/v1/servicecidrs/kubernetes", code: 200, owners: []string{
				`kube-apiserver Update  {"f:spec":{"f:cidrs":{}}}`,
				`kubernetes-service-cidr-controller Apply status {"f:status":{"f:conditions":{"k:{\"type\":\"Ready\"}":` +
					`{".":{},"f:lastTransitionTime":{},"f:message":{},"f:status":{},"f:type":{}}}}}`}},
			{do: "GET /api/v1/namespaces/default/services/kubernetes", code: 200, owners: []string{
				`kube-apiserver Update  {"f:metadata":{"f:labels":{".":{},"f:component":{},"f:provider":{}}},"f:spec":{"f:clusterIP":{},` +
					`"f:internalTrafficPolicy":{},"f:ipFamilyPolicy":{},"f:ports":`}},
		},
		"status and scale": {
			{do: "POST " + sets + "?fieldManager=main", body: strings.Replace(replicaSet, `"spec":{"sel`, `"status":{"replicas":3},"spec":{"replicas":2,"sel`, 1), code: 201},
			{do: "PATCH " + sets + "/r/status?fieldManager=st", media: merge, body: `{"spec":{"replicas":9},"status":{"replicas":2,"readyReplicas":1}}`, code: 200},
			{do: "PATCH " + sets + "/r/scale?fieldManager=sc", media: merge, body: `{"spec":{"replicas":5}}`, code: 200},
			{do: "GET " + sets + "/r", code: 200, owners: []string{
				`main Update  {"f:spec":{"f:selector":{},"f:template":{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":` +
					`{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},` +
					`"f:dnsPolicy":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}}}`,
				`sc Update scale {"f:spec":{"f:replicas":{}}}`,
				`st Update status {"f:status":{"f:readyReplicas":{},"f:replicas":{}}}`}},
			{do: "PATCH " + sets + "/r?fieldManager=ap", media: apply, body: `{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":1}}`, code: 409,
				message: `Apply failed with 1 conflict: conflict with "sc" with subresource "scale" using apps/v1: .spec.replicas`},
			{do: "PATCH " + sets + "/r/scale?fieldManager=ap&force=true", media: apply, body: `{"apiVersion":"autoscaling/v1","kind":"Scale","spec":{"replicas":1}}`, code: 200},
			{do: "GET " + sets + "/r", code: 200, owners: []string{
				`ap Apply scale {"f:spec":{"f:replicas":{}}}`, `main Update  {"f:spec":{"f:selector":`, `st Update status {"f:status":{`}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, revision := start(t).Handler(), ""
			for i, st := range steps {
				revision = st.run(t, fmt.Sprintf("%d %s", i, st.do), h, revision)
			}
		})
	}
}

// run sends the request and compares; it returns the object's resourceVersion.
func (s step) run(t *testing.T, name string, h http.Handler, revision string) string {
	t.Helper()
	method, url, _ := strings.Cut(s.do, " ")
	r := httptest.NewRequest(method, url, strings.NewReader(s.body))
	if s.media == "" {
		s.media = plain
	}
	r.Header.Set("Content-Type", s.media)
	if s.agent == "" {
		s.agent = "test/1"
	}
	r.Header.Set("User-Agent", strings.TrimPrefix(s.agent, "-"))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != s.code {
		t.Fatalf("%s: %d, want %d: %s", name, w.Code, s.code, w.Body)
	}
	var got struct {
		Message string
		Details struct {
			Causes []struct{ Reason, Message, Field string }
		}
		Metadata struct {
			ResourceVersion string
			ManagedFields   []struct {
				Manager, Operation, Subresource string
				FieldsV1                        json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if s.message != "" && got.Message != s.message {
		t.Errorf("%s: message\n%s\nwant\n%s", name, got.Message, s.message)
	}
	for i, want := range s.causes {
		if c := got.Details.Causes[i]; c.Reason+" "+c.Field+" "+c.Message != want {
			t.Errorf("%s: cause %+v, want %s", name, c, want)
		}
	}
	if have := w.Header().Get("Warning"); have != s.warning {
		t.Errorf("%s: warning %s, want %s", name, have, s.warning)
	}
	if s.same && got.Metadata.ResourceVersion != revision {
		t.Errorf("%s: written although nothing changed", name)
	}
	if s.owners != nil {
		var owners []string
		for _, e := range got.Metadata.ManagedFields {
			owners = append(owners, fmt.Sprintf("%s %s %s %s", e.Manager, e.Operation, e.Subresource, e.FieldsV1))
		}
		s.compareOwners(t, name, owners)
	}
	return got.Metadata.ResourceVersion
}

// compareOwners takes what is wanted in any order, and as the beginning of what is had.
func (s step) compareOwners(t *testing.T, name string, owners []string) {
	t.Helper()
	if len(owners) != len(s.owners) {
		t.Errorf("%s: owners\n%s\nwant\n%s", name, strings.Join(owners, "\n"), strings.Join(s.owners, "\n"))
		return
	}
next:
	for _, want := range s.owners {
		for _, have := range owners {
			if strings.HasPrefix(have, want) {
				continue next
			}
		}
		t.Errorf("%s: owners\n%s\nlack\n%s", name, strings.Join(owners, "\n"), want)
	}
}
