// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"knarr.dev/apiserver"
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

// TestDualStack gives Services addresses of both families, and takes them back.
func TestDualStack(t *testing.T) {
	o := observer{handler: startAdmitting(t, func(c *apiserver.Config) {
		c.ServiceCIDR, c.SecondaryServiceCIDR = netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")
	}).Handler()}
	const services, addresses = "/api/v1/namespaces/default/services", "/apis/networking.k8s.io/v1/ipaddresses/"
	for _, c := range []struct {
		spec, change string // how the Service is made, and then changed
		want         string // families of addresses, families, policy; or what is wrong
	}{
		{`{}`, ``, "4 [IPv4] SingleStack"},
		{`{"clusterIP": "fd00:10:96::5"}`, ``, "6 [IPv6] SingleStack"},
		{`{"ipFamilies": ["IPv6"]}`, ``, "6 [IPv6] SingleStack"},
		{`{"ipFamilyPolicy": "PreferDualStack"}`, ``, "46 [IPv4 IPv6] PreferDualStack"},
		{`{"ipFamilyPolicy": "RequireDualStack", "clusterIP": "fd00:10:96::6"}`, ``, "64 [IPv6 IPv4] RequireDualStack"},
		{`{"ipFamilies": ["IPv4", "IPv6"]}`, ``, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"},
		{`{"clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5", "fd00:10:96::5"]}`, ``, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"},
		{`{"clusterIP": "::1"}`, ``, "failed to allocate IP ::1: the provided network does not match the current range"},
		{`{"clusterIP": "10.96.255.255"}`, ``, "failed to allocate IP 10.96.255.255: the provided IP (10.96.255.255) is not in the valid range. The range of valid IPs is 10.96.0.0/16"},
		{`{"clusterIP": "None", "ipFamilies": ["IPv6"]}`, ``, " [IPv6 IPv4] RequireDualStack"},
		{`{}`, `{"ipFamilyPolicy": "PreferDualStack"}`, "46 [IPv4 IPv6] PreferDualStack"},
		{`{"ipFamilyPolicy": "PreferDualStack"}`, `{"ipFamilyPolicy": "SingleStack"}`, "4 [IPv4] SingleStack"},
		{`{"ipFamilyPolicy": "PreferDualStack"}`, `{"ipFamilies": ["IPv4"]}`, "must be 'SingleStack' to release the secondary IP family"},
		{`{"ipFamilyPolicy": "PreferDualStack"}`, `{"type": "ExternalName", "externalName": "a.b"}`, " [] <nil>"},
	} {
		service := map[string]any{"metadata": map[string]any{"name": "a"}, "spec": map[string]any{"ports": []any{map[string]any{"port": 80}}}}
		apply := func(text string) {
			if text == "" {
				return
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(text), &fields); err != nil {
				t.Fatal(err)
			}
			for key, value := range fields {
				service["spec"].(map[string]any)[key] = value
			}
		}
		apply(c.spec)
		got := o.send(t, "POST", services, service)
		had := addressTexts(got.body)
		if c.change != "" {
			service = got.body
			apply(c.change)
			got = o.send(t, "PUT", services+"/a", service)
		}
		have := fmt.Sprint(got.body["message"])
		if got.code < 300 {
			spec, families := got.body["spec"].(map[string]any), ""
			for _, ip := range addressTexts(got.body) {
				families += map[bool]string{true: "6", false: "4"}[strings.Contains(ip, ":")]
				if held := o.send(t, "GET", addresses+ip, nil); held.code != http.StatusOK {
					t.Errorf("%s %s: nothing holds %s", c.spec, c.change, ip)
				}
			}
			list, _ := spec["ipFamilies"].([]any)
			have = fmt.Sprintf("%s %v %v", families, list, spec["ipFamilyPolicy"])
		}
		if have != c.want && !strings.HasSuffix(have, ": "+c.want) {
			t.Errorf("%s %s: got %s, want %s", c.spec, c.change, have, c.want)
		}
		o.send(t, "DELETE", services+"/a", nil)
		for _, ip := range had {
			if held := o.send(t, "GET", addresses+ip, nil); held.code != http.StatusNotFound {
				t.Errorf("%s %s: %s is still held", c.spec, c.change, ip)
			}
		}
	}
}

// addressTexts are the addresses of a Service.
func addressTexts(service map[string]any) (out []string) {
	spec, _ := service["spec"].(map[string]any)
	list, _ := spec["clusterIPs"].([]any)
	for _, ip := range list {
		if ip != "None" {
			out = append(out, ip.(string))
		}
	}
	return out
}
