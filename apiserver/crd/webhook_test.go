// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/webhook"
)

// converter is a conversion webhook that moves spec.a to spec.b, or misbehaves.
func converter(t *testing.T, calls *int, change func(response map[string]any)) *apiextensionsv1.WebhookConversion {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*calls++
		var q struct {
			APIVersion string `json:"apiVersion"`
			Request    struct {
				UID               string                      `json:"uid"`
				DesiredAPIVersion string                      `json:"desiredAPIVersion"`
				Objects           []unstructured.Unstructured `json:"objects"`
			} `json:"request"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		var converted []any
		for _, o := range q.Request.Objects {
			o.SetAPIVersion(q.Request.DesiredAPIVersion)
			spec := o.Object["spec"].(map[string]any)
			spec["b"] = spec["a"]
			delete(spec, "a")
			o.SetLabels(map[string]string{"converted": "yes"})
			o.SetFinalizers([]string{"example.com/ignored"})
			converted = append(converted, o.Object)
		}
		response := map[string]any{"uid": q.Request.UID, "convertedObjects": converted, "result": map[string]any{"status": "Success"}}
		if change != nil {
			change(response)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "ConversionReview", "apiVersion": q.APIVersion, "response": response})
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return &apiextensionsv1.WebhookConversion{
		ConversionReviewVersions: []string{"v2", "v1"}, ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &server.URL, CABundle: ca},
	}
}

func object(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": name, "uid": "u-" + name},
		"spec": map[string]any{"a": name},
	}}
}

func TestConversionWebhook(t *testing.T) {
	var calls int
	d := definition("things", "Thing")
	d.Status.AcceptedNames = d.Spec.Names
	text := apiextensionsv1.JSONSchemaProps{Type: "string"}
	version := func(name, field string, storage bool) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: storage,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
				Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
					"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{field: text}},
				},
			}},
		}
	}
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", "a", true), version("v2", "b", false)}
	d.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: converter(t, &calls, nil)}
	_, served, err := Kinds(d, Webhooks(webhook.New(nil)), nil)
	if err != nil {
		t.Fatal(err)
	}
	v2 := served[1]
	before := object("x")
	got, err := v2.Stored.FromHub(before)
	if err != nil {
		t.Fatal(err)
	}
	u := got.(*unstructured.Unstructured)
	if b, _, _ := unstructured.NestedString(u.Object, "spec", "b"); b != "x" || u.GetAPIVersion() != "example.com/v2" {
		t.Errorf("converted %v", u.Object)
	}
	if u.GetLabels()["converted"] != "yes" || len(u.GetFinalizers()) > 0 {
		t.Errorf("a webhook may change labels and no finalizers: %v", u.Object["metadata"])
	}
	if before.GetAPIVersion() != "example.com/v1" || before.GetLabels() != nil {
		t.Errorf("the stored object was changed: %v", before.Object)
	}
	calls = 0
	all, err := v2.Stored.FromHubAll([]resource.Object{object("x"), object("y"), object("z")})
	if err != nil || len(all) != 3 || calls != 1 || all[2].GetName() != "z" {
		t.Errorf("a list took %d calls: %v, %v", calls, all, err)
	}
}

func TestConversionWebhookRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"failure": {func(r map[string]any) { r["result"] = map[string]any{"status": "Failure", "message": "no way"} }, "no way"},
		"uid":     {func(r map[string]any) { r["uid"] = "other" }, "expected response.uid="},
		"number":  {func(r map[string]any) { r["convertedObjects"] = []any{} }, "returned 0 objects, expected 1"},
		"version": {func(r map[string]any) {
			r["convertedObjects"].([]any)[0].(map[string]any)["apiVersion"] = "example.com/v3"
		}, "invalid groupVersion (expected example.com/v2, received example.com/v3)"},
		"name": {func(r map[string]any) {
			r["convertedObjects"].([]any)[0].(map[string]any)["metadata"].(map[string]any)["name"] = "y"
		}, "invalid metadata in object at index 0"},
	} {
		t.Run(name, func(t *testing.T) {
			var calls int
			w := converter(t, &calls, test.change)
			_, err := Webhooks(webhook.New(nil))(context.Background(), w, "example.com/v2", []*unstructured.Unstructured{object("x")})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
