// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
)

// TestSubresourceMetadata changes metadata and more through subresources: some take labels and annotations with them, as Kubernetes'
// do, others do not.
func TestSubresourceMetadata(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	o := observer{handler: startAdmitting(t).Handler()}
	o.send(t, "POST", "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "odd"}})
	o.send(t, "POST", "/api/v1/namespaces/odd/serviceaccounts", map[string]any{"metadata": map[string]any{"name": "default"}})
	for _, test := range []struct {
		collection, sub string
		spec            map[string]any
		set, want       map[string]any // want has the fields below the object that are compared
		taken           bool
	}{
		{
			"/apis/certificates.k8s.io/v1/certificatesigningrequests", "approval",
			map[string]any{"request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), "signerName": "a.io/x", "usages": []string{"client auth"}},
			map[string]any{"status/certificate": "YWJj"}, map[string]any{"status": map[string]any{}}, true,
		},
		{
			"/api/v1/namespaces", "finalize", nil, map[string]any{"spec/finalizers": []string{"a.io/x"}, "status/phase": "Terminating"},
			map[string]any{"spec": map[string]any{"finalizers": []string{"a.io/x"}}, "status": map[string]any{"phase": "Active"}}, true,
		},
		{
			"/api/v1/namespaces/odd/pods", "resize", map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}, nil, nil, false,
		},
		{
			"/api/v1/namespaces/odd/pods", "ephemeralcontainers", map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}, nil, nil, false,
		},
	} {
		t.Run(test.sub, func(t *testing.T) {
			made := o.send(t, "POST", test.collection, map[string]any{"metadata": map[string]any{"name": test.sub, "labels": map[string]any{"l": "1"}}, "spec": test.spec})
			if made.code != 201 {
				t.Fatal(made.body["message"])
			}
			item := test.collection + "/" + test.sub
			wrote := map[string]any{"metadata/labels/l": "2", "metadata/annotations/a": "2", "metadata/finalizers": []string{"a.io/f"}}
			for path, value := range test.set {
				wrote[path] = value
			}
			got := o.send(t, "PUT", item+"/"+test.sub, set(made.body, wrote))
			if got.code != 200 {
				t.Fatal(got.body["message"])
			}
			meta := got.body["metadata"].(map[string]any)
			if label := meta["labels"].(map[string]any)["l"]; (label == "2") != test.taken || (meta["annotations"] != nil) != test.taken || (meta["finalizers"] != nil) != test.taken {
				t.Errorf("taken: want %v, got %v", test.taken, meta)
			}
			for field, want := range test.want {
				if !sameJSON(got.body[field], want) {
					t.Errorf("%s: got %v, want %v", field, got.body[field], want)
				}
			}
		})
	}
}
