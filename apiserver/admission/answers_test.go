// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/admissionregistration"
)

// TestAnswersOfWebhooks holds what is made of a webhook's answer to what kube-apiserver v1.36 made of it.
func TestAnswersOfWebhooks(t *testing.T) {
	const review, failed, invalid = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview",`,
		`Internal error occurred: failed calling webhook "w.example.com": failed to call webhook: `,
		`Internal error occurred: failed calling webhook "w.example.com": received invalid webhook response: `
	type answer struct {
		name, body string
		code       int
		header     map[string]string
		want       string // the error; "" is none
	}
	tests := []answer{
		{name: "allowed", body: review + `"response":{"uid":"UID","allowed":true}}`},
		{name: "allowed, in YAML", body: "apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\nresponse:\n  uid: UID\n  allowed: true\n"},
		{name: "no kind", body: `{"response":{"uid":"UID","allowed":true}}`, want: invalid + "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="},
		{name: "no kind, but a version", body: `{"apiVersion":"admission.k8s.io/v1","response":{"uid":"UID"}}`, want: invalid + "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1, Kind="},
		{name: "no version", body: `{"kind":"AdmissionReview","response":{"uid":"UID"}}`, want: invalid + "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=AdmissionReview"},
		{name: "another version", body: `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}`, want: failed + "converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion"},
		{name: "another kind", body: `{"kind":"Foo"}`, want: failed + `no kind "Foo" is registered for version "admission.k8s.io/v1" in scheme "pkg/runtime/scheme.go:111"`},
		{name: "a Status", body: `{"kind":"Status","apiVersion":"v1","status":"Failure"}`, want: failed + "converting (v1.Status) to (v1.AdmissionReview): unknown conversion"},
		{name: "other capitals", body: review + `"Response":{"UID":"UID","Allowed":true}}`, want: invalid + "webhook response was absent"},
		{name: "cut off", body: review + `"response":{"uid"`, want: failed + "couldn't get version/kind; json parse error: unexpected end of JSON input"},
		{name: "more at the end", body: review + `"response":{"uid":"UID","allowed":true}} x`, want: failed + "couldn't get version/kind; json parse error: invalid character 'x' after top-level value"},
		{name: "a type of patch that is empty", body: review + `"response":{"uid":"UID","allowed":true,"patch":"W10=","patchType":""}}`, want: invalid + `webhook returned invalid response.patchType of ""`},
		{name: "refused", body: review + `"response":{"uid":"UID","status":{"status":"Success","message":"no","code":200}}}`, want: `admission webhook "w.example.com" denied the request: no`},
		{name: "busy", code: http.StatusTooManyRequests, want: failed + "the server has received too many requests and has asked us to try again later"},
		{name: "sent on, with all that was sent", code: http.StatusTemporaryRedirect, header: map[string]string{"Location": "/allowed"}},
	}
	byName := map[string]answer{}
	for _, a := range tests {
		byName[strings.NewReplacer(" ", "-", ",", "").Replace(a.name)] = a
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := byName[strings.TrimPrefix(r.URL.Path, "/")]
		for name, value := range a.header {
			w.Header().Set(name, value)
		}
		if a.code != 0 {
			w.WriteHeader(a.code)
			return
		}
		var sent reviewv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Errorf("%s: %v", a.name, err)
			return
		}
		_, _ = w.Write([]byte(strings.Replace(a.body, "UID", string(sent.Request.UID), 1)))
	}))
	defer server.Close()
	for _, a := range tests {
		w := webhookAt(server, "/"+strings.NewReplacer(" ", "-", ",", "").Replace(a.name))
		w.Name = "w.example.com"
		store := world()
		store.add(admissionregistration.MutatingWebhookConfigurations.Kind, &admissionv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "w", UID: "1"}, Webhooks: []admissionv1.MutatingWebhook{
				{Name: w.Name, AdmissionReviewVersions: w.AdmissionReviewVersions, ClientConfig: w.ClientConfig, Rules: w.Rules},
			},
		})
		if got := text(admit(t, Steps(store, nil, Config{Now: clock}), configMap())); got != a.want {
			t.Errorf("%s: %s\nwant %s", a.name, got, a.want)
		}
	}
}
