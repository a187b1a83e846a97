// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// hooks is a server of webhooks: the path says what it answers.
func hooks(t *testing.T) *httptest.Server {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var review reviewv1.AdmissionReview
		if err := json.Unmarshal(body, &review); err != nil {
			t.Error(err)
		}
		answer := &reviewv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		switch r.URL.Path {
		case "/deny":
			answer.Allowed, answer.Result = false, &metav1.Status{Message: "no", Code: 418}
		case "/patch":
			answer.PatchType = pointer(reviewv1.PatchTypeJSONPatch)
			answer.Patch = []byte(`[{"op":"add","path":"/data/seen","value":"` + string(review.Request.Operation) + `"}]`)
		case "/count":
			var c corev1.ConfigMap
			_ = json.Unmarshal(review.Request.Object.Raw, &c)
			answer.PatchType = pointer(reviewv1.PatchTypeJSONPatch)
			answer.Patch = []byte(`[{"op":"add","path":"/data/count","value":"` + c.Data["count"] + `x"}]`)
		case "/stranger":
			answer.UID = "other"
		case "/warn":
			answer.Warnings = []string{"careful"}
		}
		review = reviewv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: answer}
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(s.Close)
	return s
}

// webhookAt is a webhook for new ConfigMaps of namespaces with a label.
func webhookAt(s *httptest.Server, path string) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: strings.TrimPrefix(path, "/") + ".example.com", AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionv1.WebhookClientConfig{
			URL: pointer(s.URL + path), CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
		},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"},
		}}},
		NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "off", Operator: metav1.LabelSelectorOpDoesNotExist}}},
	}
}

func configMap() *Request {
	r := create(core.ConfigMaps.Kind, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "c"}, Data: map[string]string{"a": "b"}})
	r.Call = &call.Request{Verb: "create"}
	return r
}

func TestValidatingWebhooks(t *testing.T) {
	server := hooks(t)
	never := admissionv1.MatchCondition{Name: "never", Expression: "object.metadata.name == 'other'"}
	broken := admissionv1.MatchCondition{Name: "broken", Expression: "object.spec.x == 1"}
	for _, c := range []struct {
		name, path string
		change     func(*admissionv1.ValidatingWebhook)
		want       string
	}{
		{"allows", "/allow", nil, ""},
		{"denies", "/deny", nil, `admission webhook "deny.example.com" denied the request: no`},
		{"answers another", "/stranger", nil, `failed calling webhook "stranger.example.com": received invalid webhook response: expected response.uid=`},
		{"may fail", "/stranger", func(w *admissionv1.ValidatingWebhook) { w.FailurePolicy = pointer(admissionv1.Ignore) }, ""},
		{"patches", "/patch", nil, "validating webhook may not return response.patch"},
		{"other resource", "/deny", func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"configmaps/status"} }, ""},
		{"other scope", "/deny", func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Scope = pointer(admissionv1.ClusterScope) }, ""},
		{"other namespace", "/deny", func(w *admissionv1.ValidatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, ""},
		{"condition", "/deny", func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{broken, never}
		}, ""},
		{"broken condition", "/allow", func(w *admissionv1.ValidatingWebhook) { w.MatchConditions = []admissionv1.MatchCondition{broken} },
			`configmaps "c" is forbidden: expression 'object.spec.x == 1' resulted in error: no such key: spec`},
		{"no service", "/allow", func(w *admissionv1.ValidatingWebhook) {
			w.ClientConfig.URL, w.ClientConfig.Service = nil, &admissionv1.ServiceReference{Namespace: "n", Name: "s"}
		}, `service "s" not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := webhookAt(server, c.path)
			if c.change != nil {
				c.change(&w)
			}
			store := world()
			store.add(admissionregistration.ValidatingWebhookConfigurations.Kind, &admissionv1.ValidatingWebhookConfiguration{
				ObjectMeta: metav1.ObjectMeta{Name: "w", UID: "1"}, Webhooks: []admissionv1.ValidatingWebhook{w},
			})
			err := admit(t, Steps(store, nil, Config{Now: clock}), configMap())
			if got := text(err); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMutatingWebhooks(t *testing.T) {
	server := hooks(t)
	store := world()
	var list []admissionv1.MutatingWebhook
	for _, path := range []string{"/count", "/patch"} {
		w := webhookAt(server, path)
		list = append(list, admissionv1.MutatingWebhook{
			Name: w.Name, AdmissionReviewVersions: w.AdmissionReviewVersions, ClientConfig: w.ClientConfig, Rules: w.Rules, NamespaceSelector: w.NamespaceSelector,
		})
	}
	list[0].ReinvocationPolicy = pointer(admissionv1.IfNeededReinvocationPolicy)
	store.add(admissionregistration.MutatingWebhookConfigurations.Kind, &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "w", UID: types.UID("2")}, Webhooks: list,
	})
	r := configMap()
	steps := Steps(store, nil, Config{Now: clock})
	if err := admit(t, steps, r); err != nil {
		t.Fatal(err)
	}
	if !r.Again() {
		t.Fatal("no second run, though the object was changed")
	}
	if err := admit(t, steps, r); err != nil {
		t.Fatal(err)
	}
	data := core.ConfigMaps.Cast(r.Object).Data
	if data["seen"] != "CREATE" || data["count"] != "xx" {
		t.Errorf("got %v: want what both webhooks did, and the first one twice", data)
	}
}

// TestPatchToAnotherKind holds what a patch may make of an object to what kube-apiserver v1.36 answers.
func TestPatchToAnotherKind(t *testing.T) {
	schemas := both{world()}
	for _, c := range []struct{ patch, want string }{
		{`[{"op":"remove","path":"/kind"}]`, ""},
		{`[{"op":"replace","path":"/kind","value":"Secret"}]`, "illegal base64 data at input byte 0"},
		{`[{"op":"replace","path":"/apiVersion","value":"v2"}]`, `no kind "ConfigMap" is registered for version "v2" in scheme "pkg/runtime/scheme.go:111"`},
		{`[{"op":"replace","path":"","value":{"kind":"Secret","apiVersion":"v1","metadata":{"name":"x"}}}]`, "converting (v1.Secret) to (core.ConfigMap): unknown conversion"},
	} {
		patch, err := jsonpatch.DecodePatch([]byte(c.patch))
		if err != nil {
			t.Fatal(err)
		}
		if err := configMap().patchObject(schemas, core.ConfigMaps.Kind, patch); !strings.Contains(text(err), c.want) || c.want == "" && err != nil {
			t.Errorf("%s: %v, want %s", c.patch, err, c.want)
		}
	}
}

// both is a small store that knows two kinds.
type both struct{ *objects }

func (both) KindOf(gvk schema.GroupVersionKind) *resource.Kind {
	for _, k := range []*resource.Kind{core.ConfigMaps.Kind, core.Secrets.Kind} {
		if k.GroupVersionKind == gvk {
			return k
		}
	}
	return nil
}

func (both) Merge(_ *resource.Kind, obj resource.Object, _ map[string]any) (resource.Object, error) {
	return obj, nil
}
