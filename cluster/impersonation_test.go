// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/rbac"
	"knarr.dev/client"
)

// The refusals are those of kube-apiserver v1.36.
func TestConstrainedImpersonation(t *testing.T) {
	c := start(t, func(c *Config) { c.TokenFile = write(t, "secret,robot,1\nother,stranger,2\n") })
	admin := c.Client(Administrator())
	const group = "authentication.k8s.io"
	rule := func(resource string, verbs ...string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
	}
	if _, err := client.Of(admin, rbac.ClusterRoles).Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "imp"}, Rules: []rbacv1.PolicyRule{
			rule("users", "impersonate:user-info"), rule("groups", "impersonate:user-info"), rule("uids", "impersonate:user-info"), rule("userextras/acme.io/x", "impersonate:user-info"),
			rule("nodes", "impersonate:arbitrary-node"), rule("serviceaccounts", "impersonate:serviceaccount"),
			rule("selfsubjectreviews", "impersonate-on:user-info:create", "impersonate-on:serviceaccount:create", "impersonate-on:arbitrary-node:create"),
		},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(admin, rbac.ClusterRoleBindings).Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "imp"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "imp"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "robot"}},
	}); err != nil {
		t.Fatal(err)
	}
	const reviews, pods = "/apis/authentication.k8s.io/v1/selfsubjectreviews", "/api/v1/pods"
	for _, test := range []struct {
		token, path, headers, want string
	}{
		{"secret", reviews, "User=jane", `"userInfo":{"groups":["system:authenticated"],"username":"jane"}`},
		{"secret", reviews, "User=jane,Group=dev,Uid=7,Extra-acme.io%2Fx=y", `"userInfo":{"extra":{"acme.io/x":["y"]},"groups":["dev","system:authenticated"],"uid":"7","username":"jane"}`},
		{"secret", reviews, "User=jane,Group=system:masters", `groups.authentication.k8s.io "system:masters" is forbidden: User "robot" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope: impersonating the system:masters group is not allowed`},
		{"secret", reviews, "User=jane,Extra-x=y", `userextras.authentication.k8s.io is forbidden: User "robot" cannot impersonate:user-info resource "userextras" in API group "authentication.k8s.io" at the cluster scope: impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "x": must be a domain-prefixed path (such as "acme.io/foo")`},
		{"secret", reviews, "User=system:serviceaccount:n:a", `"groups":["system:serviceaccounts","system:serviceaccounts:n","system:authenticated"],"username":"system:serviceaccount:n:a"`},
		{"secret", reviews, "User=system:serviceaccount:N:a", `"userInfo":{"groups":["system:authenticated"],"username":"system:serviceaccount:N:a"}`},
		{"secret", reviews, "User=system:serviceaccount:n:a,Group=dev", `serviceaccounts "a" is forbidden: User "robot" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "n"`},
		{"secret", reviews, "User=system:node:n1", `"groups":["system:nodes","system:authenticated"],"username":"system:node:n1"`},
		{"secret", reviews, "User=system:node:n1,Group=system:nodes", `users "system:node:n1" is forbidden: User "robot" cannot impersonate resource "users" in API group "" at the cluster scope`},
		{"secret", pods, "User=jane", `pods is forbidden: User "robot" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope`},
		{"other", reviews, "User=jane", `selfsubjectreviews.authentication.k8s.io is forbidden: User "stranger" cannot impersonate-on:user-info:create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope`},
		{"other", reviews, "Group=dev", `requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"dev"}, Extra:map[string][]string(nil)} without impersonating a user name`},
	} {
		method := "POST"
		if test.path == pods {
			method = "GET"
		}
		r := httptest.NewRequest(method, test.path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+test.token)
		r.Header.Set("Content-Type", "application/json")
		for part := range strings.SplitSeq(test.headers, ",") {
			name, value, _ := strings.Cut(part, "=")
			r.Header.Add("Impersonate-"+name, value)
		}
		w := httptest.NewRecorder()
		c.Server().Handler().ServeHTTP(w, r)
		var answer struct {
			Message string `json:"message"`
		}
		got := ""
		if w.Code >= 400 { // a Status, whose status is a text
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
			got = answer.Message
		} else {
			var object map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &object); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(object["status"])
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%s %s:\n got %s\nwant %s", test.path, test.headers, got, test.want)
		}
	}
}
