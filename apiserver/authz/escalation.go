// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authn"
)

// CheckGrant refuses a write of a role or binding by somebody who would give more than they have. obj is the new object; old
// is nil for a create. Other kinds pass.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping.
func (r *RBAC) CheckGrant(ctx context.Context, by Authorizer, user *call.Identity, kind *resource.Kind, obj, old resource.Object) error {
	if slices.Contains(user.Groups, authn.GroupMasters) {
		return nil
	}
	if old != nil && onlyForCollector(obj, old) {
		return nil
	}
	switch kind {
	case rbac.ClusterRoles.Kind:
		role := rbac.ClusterRoles.Cast(obj)
		if may, err := mayEscalate(ctx, by, user, kind, "", role.Name); err != nil || may {
			return err
		}
		if err := r.checkHeld(ctx, user, kind, "", role.Name, role.Rules); err != nil {
			return err
		}
		if role.AggregationRule != nil || old != nil && rbac.ClusterRoles.Cast(old).AggregationRule != nil {
			if held, _, err := r.Rules(ctx, user, ""); err != nil || len(Uncovered(held, everything())) > 0 {
				return apierrors.NewForbidden(kind.GroupResource(), role.Name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
			}
		}
	case rbac.Roles.Kind:
		role := rbac.Roles.Cast(obj)
		return r.checkRole(ctx, by, user, kind, role.Namespace, role.Name, role.Rules)
	case rbac.ClusterRoleBindings.Kind:
		b := rbac.ClusterRoleBindings.Cast(obj)
		return r.checkBinding(ctx, by, user, kind, "", b.Name, &b.RoleRef)
	case rbac.RoleBindings.Kind:
		b := rbac.RoleBindings.Cast(obj)
		return r.checkBinding(ctx, by, user, kind, b.Namespace, b.Name, &b.RoleRef)
	}
	return nil
}

// onlyForCollector says whether an update changes nothing but what the garbage collector needs to: finalizers and owners.
func onlyForCollector(obj, old resource.Object) bool {
	bare := func(o resource.Object) resource.Object {
		o = o.DeepCopyObject().(resource.Object)
		o.SetFinalizers(nil)
		o.SetOwnerReferences(nil)
		o.SetManagedFields(nil)
		o.SetResourceVersion("")
		return o
	}
	return equality.Semantic.DeepEqual(bare(obj), bare(old))
}

func everything() []rbacv1.PolicyRule {
	all := []string{"*"}
	return []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
}

func (r *RBAC) checkRole(ctx context.Context, by Authorizer, user *call.Identity, kind *resource.Kind, namespace, name string, rules []rbacv1.PolicyRule) error {
	if may, err := mayEscalate(ctx, by, user, kind, namespace, name); err != nil || may {
		return err
	}
	return r.checkHeld(ctx, user, kind, namespace, name, rules)
}

// mayEscalate says whether user may write any rules into a role.
func mayEscalate(ctx context.Context, by Authorizer, user *call.Identity, kind *resource.Kind, namespace, name string) (bool, error) {
	may, _, err := by.Authorize(ctx, &Attributes{
		User: user, Verb: "escalate", Group: kind.Group, Version: kind.Version, Resource: kind.Resource, Namespace: namespace, Name: name,
	})
	return may, err
}

func (r *RBAC) checkBinding(ctx context.Context, by Authorizer, user *call.Identity, kind *resource.Kind, namespace, name string, ref *rbacv1.RoleRef) error {
	target := rbac.ClusterRoles.Kind
	if ref.Kind == "Role" {
		target = rbac.Roles.Kind
	}
	may, _, err := by.Authorize(ctx, &Attributes{
		User: user, Verb: "bind", Group: target.Group, Version: target.Version, Resource: target.Resource, Namespace: namespace, Name: ref.Name,
	})
	if err != nil || may {
		return err
	}
	if _, err := r.reader.Get(ctx, target, namespaceOf(target, namespace), ref.Name); apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(kind.GroupResource(), ref.Name) // the binding's resource with the role's name: Kubernetes says it so
	}
	rules, err := r.rules(ctx, ref, namespace)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("resolve %s %s: %w", ref.Kind, ref.Name, err))
	}
	return r.checkHeld(ctx, user, kind, namespace, name, rules)
}

func namespaceOf(kind *resource.Kind, namespace string) string {
	if kind.Scope == resource.Cluster {
		return ""
	}
	return namespace
}

func (r *RBAC) checkHeld(ctx context.Context, user *call.Identity, kind *resource.Kind, namespace, name string, rules []rbacv1.PolicyRule) error {
	held, missing, err := r.Rules(ctx, user, namespace)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("resolve the rules of %s: %w", user.Name, err))
	}
	lacking := Uncovered(held, rules)
	if len(lacking) == 0 {
		return nil
	}
	lines := make([]string, 0, len(lacking))
	for i := range lacking {
		lines = append(lines, ruleText(&lacking[i]))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", user.Name, user.Groups, strings.Join(lines, "\n"))
	if len(missing) > 0 {
		text += fmt.Sprintf("; resolution errors: %v", missing)
	}
	return apierrors.NewForbidden(kind.GroupResource(), name, errors.New(text))
}

// ruleText is a rule in one line, as Kubernetes prints it.
func ruleText(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, field := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(field.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", field.name, field.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// Uncovered returns the part of wanted that held does not allow: one rule for each group, resource and name, with the verbs that
// lack, and one for each path and verb.
func Uncovered(held, wanted []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	add := func(r rbacv1.PolicyRule, verb string) {
		for i := range out {
			o := &out[i]
			if len(r.NonResourceURLs) == 0 && slices.Equal(o.APIGroups, r.APIGroups) && slices.Equal(o.Resources, r.Resources) &&
				slices.Equal(o.ResourceNames, r.ResourceNames) && slices.Equal(o.NonResourceURLs, r.NonResourceURLs) {
				if !slices.Contains(o.Verbs, verb) {
					o.Verbs = append(o.Verbs, verb)
				}
				return
			}
		}
		r.Verbs = []string{verb}
		out = append(out, r)
	}
	for i := range wanted {
		for _, single := range split(&wanted[i]) {
			for _, verb := range wanted[i].Verbs {
				if !covered(held, &single, verb) {
					add(single, verb)
				}
			}
		}
	}
	return out
}

// split breaks a rule into ones of a single resource or path each, without verbs.
func split(r *rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, group := range r.APIGroups {
		for _, resource := range r.Resources {
			one := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}}
			if len(r.ResourceNames) == 0 {
				out = append(out, one)
			}
			for _, name := range r.ResourceNames {
				one.ResourceNames = []string{name}
				out = append(out, one)
			}
		}
	}
	for _, url := range r.NonResourceURLs {
		out = append(out, rbacv1.PolicyRule{NonResourceURLs: []string{url}})
	}
	return out
}

// covered tells whether one of the rules held allows all that a single rule does. "*" is covered by "*" only.
func covered(held []rbacv1.PolicyRule, single *rbacv1.PolicyRule, verb string) bool {
	for i := range held {
		h := &held[i]
		if !matches(h.Verbs, verb) {
			continue
		}
		if len(single.NonResourceURLs) > 0 {
			if slices.ContainsFunc(h.NonResourceURLs, func(url string) bool { return matchesPath(url, single.NonResourceURLs[0]) }) {
				return true
			}
			continue
		}
		resource, subresource, _ := strings.Cut(single.Resources[0], "/")
		if !matches(h.APIGroups, single.APIGroups[0]) || !matchesResource(h.Resources, resource, subresource) {
			continue
		}
		if len(h.ResourceNames) == 0 || len(single.ResourceNames) > 0 && slices.Contains(h.ResourceNames, single.ResourceNames[0]) {
			return true
		}
	}
	return false
}
