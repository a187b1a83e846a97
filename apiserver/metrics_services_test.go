// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"knarr.dev/apiserver"
)

// TestAllocationMetrics compares what is counted of the addresses and ports of Services with what Kubernetes counted of the same.
func TestAllocationMetrics(t *testing.T) {
	s := startWith(t, func(c *apiserver.Config) { c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16") })
	post := func(name, spec, port string, want int) {
		t.Helper()
		body := fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"ports":[{"port":80%s}]%s}}`, name, port, spec)
		r := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/default/services", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if s.Handler().ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	post("s1", `,"clusterIP":"10.96.0.5"`, "", 201)
	post("s2", `,"clusterIP":"10.96.0.5"`, "", 422)
	post("s3", `,"clusterIP":"1.2.3.4"`, "", 422)
	post("s4", `,"type":"NodePort"`, `,"nodePort":30100`, 201)
	post("s5", `,"type":"NodePort"`, `,"nodePort":30100`, 422)
	post("s6", `,"type":"NodePort"`, `,"nodePort":100`, 422)
	post("s7", `,"type":"NodePort"`, "", 201)
	post("s8", `,"type":"LoadBalancer","externalTrafficPolicy":"Local"`, "", 201)
	told := text(s)
	for _, line := range []string{
		`kube_apiserver_clusterip_allocator_allocation_total{cidr="10.96.0.0/16",scope="static"} 2`, // with default/kubernetes
		`kube_apiserver_clusterip_allocator_allocation_total{cidr="10.96.0.0/16",scope="dynamic"} 3`,
		`kube_apiserver_clusterip_allocator_allocation_errors_total{cidr="10.96.0.0/16",scope="static"} 1`,
		`kube_apiserver_clusterip_allocator_allocation_duration_seconds_count{cidr="10.96.0.0/16"} 5`,
		`kube_apiserver_nodeport_allocator_allocation_total{scope="dynamic"} 3`,
		`kube_apiserver_nodeport_allocator_allocation_total{scope="static"} 1`,
		`kube_apiserver_nodeport_allocator_allocation_errors_total{scope="static"} 2`,
		`apiserver_nodeport_repair_reconcile_errors_total 0`,
	} {
		if !strings.Contains(told, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}

// TestImpersonationMetrics counts attempts to act as somebody, and the rights that were asked for.
func TestImpersonationMetrics(t *testing.T) {
	s := startWith(t, func(*apiserver.Config) {})
	r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces", nil)
	r.Header.Set("Impersonate-User", "amy")
	s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	told := text(s)
	for _, line := range []string{
		`apiserver_impersonation_attempts_total{decision="allowed",mode="user-info"} 1`,
		`apiserver_impersonation_attempts_duration_seconds_count{decision="allowed",mode="user-info"} 1`,
		`apiserver_impersonation_authorization_attempts_total{decision="allowed",mode="user-info"} 2`,
		`apiserver_impersonation_authorization_attempts_duration_seconds_count{decision="allowed",mode="user-info"} 2`,
	} {
		if !strings.Contains(told, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}
