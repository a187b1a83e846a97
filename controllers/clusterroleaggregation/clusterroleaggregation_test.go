// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clusterroleaggregation

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if label != "" {
		r.Labels = map[string]string{label: "true"}
	}
	for _, resource := range resources {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, Resources: []string{resource}})
	}
	return r
}

func aggregating(r *rbacv1.ClusterRole, labels ...string) *rbacv1.ClusterRole {
	r.AggregationRule = &rbacv1.AggregationRule{}
	for _, l := range labels {
		r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors,
			metav1.LabelSelector{MatchLabels: map[string]string{l: "true"}})
	}
	return r
}

func TestPlan(t *testing.T) {
	edit := aggregating(role("edit", "to-admin", "pods"), "to-edit")
	for _, test := range []struct {
		name  string
		role  *rbacv1.ClusterRole
		roles []*rbacv1.ClusterRole
		want  []string
	}{
		{"nothing chosen", aggregating(role("admin", ""), "to-admin"), nil, nil},
		{"by name", aggregating(role("admin", ""), "to-admin"),
			[]*rbacv1.ClusterRole{role("b", "to-admin", "b"), role("a", "to-admin", "a"), role("c", "", "c")}, []string{"a", "b"}},
		{"each rule once", aggregating(role("admin", ""), "to-admin", "to-edit"),
			[]*rbacv1.ClusterRole{role("a", "to-admin", "a", "x"), role("b", "to-edit", "x", "b")}, []string{"a", "x", "b"}},
		{"not itself", edit, []*rbacv1.ClusterRole{edit, role("a", "to-edit", "a")}, []string{"a"}},
		{"old rules go", aggregating(role("admin", "", "stale"), "to-admin"), nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			rules, err := plan(test.role, slices.Values(test.roles))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range rules {
				got = append(got, r.Resources...)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("rules for %v, want %v", got, test.want)
			}
		})
	}
}

func TestConcerned(t *testing.T) {
	admin, edit := aggregating(role("admin", ""), "to-admin"), aggregating(role("edit", "to-admin"), "to-edit")
	all := slices.Values([]*rbacv1.ClusterRole{admin, edit})
	if keys := concerned(all, role("x", ""), role("x", "to-edit")); len(keys) != 1 || keys[0].Name != "edit" {
		t.Errorf("a role that left a selector concerns %v, want edit", keys)
	}
	if keys := concerned(all, edit, nil); len(keys) != 1 || keys[0].Name != "admin" {
		t.Errorf("edit concerns %v, want admin", keys)
	}
}
