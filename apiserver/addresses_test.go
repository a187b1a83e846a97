// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"net/http"
	"testing"
)

// TestServiceAddresses follows the addresses of Services through their objects.
func TestServiceAddresses(t *testing.T) {
	o := observer{handler: startAdmitting(t).Handler()}
	const addresses, ranges, services = "/apis/networking.k8s.io/v1/ipaddresses", "/apis/networking.k8s.io/v1/servicecidrs", "/api/v1/namespaces/default/services"
	service := func(name, ip string) map[string]any {
		spec := map[string]any{"ports": []any{map[string]any{"port": 80}}}
		if ip != "" {
			spec["clusterIP"] = ip
		}
		return map[string]any{"metadata": map[string]any{"name": name}, "spec": spec}
	}
	expect := func(what string, got reply, code int) reply {
		t.Helper()
		if got.code != code {
			t.Fatalf("%s: got %d %v", what, got.code, got.body["message"])
		}
		return got
	}
	expect("address of default/kubernetes", o.send(t, "GET", addresses+"/10.43.0.1", nil), http.StatusOK)
	expect("the configured range", o.send(t, "GET", ranges+"/kubernetes", nil), http.StatusOK)

	made := expect("create", o.send(t, "POST", services, service("a", "")), http.StatusCreated)
	ip := made.body["spec"].(map[string]any)["clusterIP"].(string)
	expect("its address", o.send(t, "GET", addresses+"/"+ip, nil), http.StatusOK)
	external := made.body
	external["spec"] = map[string]any{"type": "ExternalName", "externalName": "example.com"}
	expect("give the address up", o.send(t, "PUT", services+"/a", external), http.StatusOK)
	expect("its address", o.send(t, "GET", addresses+"/"+ip, nil), http.StatusNotFound)

	expect("a dry run", o.send(t, "POST", services+"?dryRun=All", service("d", "10.43.7.7")), http.StatusCreated)
	expect("its address", o.send(t, "GET", addresses+"/10.43.7.7", nil), http.StatusNotFound)

	expect("an address of somebody else", o.send(t, "POST", addresses, map[string]any{
		"metadata": map[string]any{"name": "10.43.8.8"},
		"spec":     map[string]any{"parentRef": map[string]any{"resource": "things", "name": "x"}},
	}), http.StatusCreated)
	expect("take it", o.send(t, "POST", services, service("b", "10.43.8.8")), http.StatusUnprocessableEntity)

	other := map[string]any{"metadata": map[string]any{"name": "other"}, "spec": map[string]any{"cidrs": []any{"10.99.0.0/24"}}}
	other = expect("another range", o.send(t, "POST", ranges, other), http.StatusCreated).body
	expect("before it is ready", o.send(t, "POST", services, service("c", "10.99.0.9")), http.StatusUnprocessableEntity)
	other["status"] = map[string]any{"conditions": []any{map[string]any{
		"type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2024-01-02T03:04:05Z",
	}}}
	expect("make it ready", o.send(t, "PUT", ranges+"/other/status", other), http.StatusOK)
	expect("when it is ready", o.send(t, "POST", services, service("c", "10.99.0.9")), http.StatusCreated)
	expect("its address", o.send(t, "GET", addresses+"/10.99.0.9", nil), http.StatusOK)
	expect("delete", o.send(t, "DELETE", services+"/c", nil), http.StatusOK)
	expect("its address", o.send(t, "GET", addresses+"/10.99.0.9", nil), http.StatusNotFound)
}
