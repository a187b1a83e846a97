// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clusterroleaggregation fills the rules of ClusterRoles that have an aggregation rule, such as view, edit and admin,
// from the roles that their selectors choose.
package clusterroleaggregation

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// Needs are the rules of the loop's role. It writes rules that it does not have itself, hence escalate.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{{
		APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"},
		Verbs: []string{"escalate", "get", "list", "patch", "update", "watch"},
	}}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := reconciler{roles: client.Of(c, rbac.ClusterRoles)}
	r.roles.Manager = "clusterrole-aggregation-controller"
	view := r.roles
	return controller.Controller{
		Name: "clusterrole-aggregation-controller", For: rbac.ClusterRoles.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{{Kind: rbac.ClusterRoles.Kind, Keys: func(obj, old resource.Object) []client.Key {
			roles, err := view.View(context.Background(), client.ListOptions{})
			if err != nil {
				return nil // the loop has no view either, and starts again
			}
			return concerned(roles.All(""), obj, old)
		}}},
	}
}

// concerned returns the roles that aggregate a role as it is or as it was.
func concerned(roles iter.Seq[*rbacv1.ClusterRole], changed ...resource.Object) []client.Key {
	var keys []client.Key
	for role := range roles {
		for _, c := range changed {
			if c != nil && aggregates(role, c) {
				keys = append(keys, client.KeyOf(role))
				break
			}
		}
	}
	return keys
}

func aggregates(role *rbacv1.ClusterRole, other metav1.Object) bool {
	if role.AggregationRule == nil || role.Name == other.GetName() {
		return false
	}
	return slices.ContainsFunc(role.AggregationRule.ClusterRoleSelectors, func(s metav1.LabelSelector) bool {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		return err == nil && selector.Matches(labels.Set(other.GetLabels()))
	})
}

type reconciler struct {
	roles client.Resource[rbacv1.ClusterRole]
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	roles, err := r.roles.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	role := roles.Get(key)
	if role == nil || role.AggregationRule == nil || role.DeletionTimestamp != nil {
		return 0, nil
	}
	want, err := plan(role, roles.All(""))
	if err != nil || equality.Semantic.DeepEqual(want, role.Rules) {
		return 0, err
	}
	next := role.DeepCopy()
	next.Rules = want
	_, err = r.roles.Update(ctx, next)
	return 0, err
}

// plan returns the rules that a role should have: those of the roles that it aggregates, selector by selector, each in the order of
// their names, each rule once.
func plan(role *rbacv1.ClusterRole, all iter.Seq[*rbacv1.ClusterRole]) ([]rbacv1.PolicyRule, error) {
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("cluster role %s: selector %d: %w", role.Name, i, err)
		}
		var chosen []*rbacv1.ClusterRole
		for other := range all {
			if other.Name != role.Name && selector.Matches(labels.Set(other.Labels)) {
				chosen = append(chosen, other)
			}
		}
		slices.SortFunc(chosen, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
		for _, other := range chosen {
			for _, rule := range other.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, nil
}
