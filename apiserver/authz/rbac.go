// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/rbac"
	"knarr.dev/api/resource"
)

// RBAC decides by roles and bindings. It only ever allows.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/rbac/.
type RBAC struct{ reader Reader }

// NewRBAC returns an authorizer over the roles and bindings that reader shows.
func NewRBAC(reader Reader) *RBAC { return &RBAC{reader: reader} }

// grant is one way in which a user has a role.
type grant struct {
	// binding is a RoleBinding or ClusterRoleBinding, whose namespace is empty.
	binding, namespace string
	role               *rbacv1.RoleRef
	subject            *rbacv1.Subject
	rules              []rbacv1.PolicyRule
}

func (g *grant) reason() string {
	kind, name := "ClusterRoleBinding", g.binding
	if g.namespace != "" {
		kind, name = "RoleBinding", g.binding+"/"+g.namespace
	}
	subject := g.subject.Name
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		namespace := g.subject.Namespace
		if namespace == "" {
			namespace = g.namespace
		}
		subject += "/" + namespace
	}
	return `RBAC: allowed by ` + kind + ` "` + name + `" of ` + g.role.Kind + ` "` + g.role.Name + `" to ` + g.subject.Kind + ` "` + subject + `"`
}

// Authorize implements Authorizer.
func (r *RBAC) Authorize(ctx context.Context, a *Attributes) (allowed bool, reason string, err error) {
	var missing []error
	err = r.visit(ctx, a.User, a.Namespace, func(g *grant, err error) bool {
		if err != nil {
			missing = append(missing, err)
			return true
		}
		for i := range g.rules {
			if allows(&g.rules[i], a) {
				allowed, reason = true, g.reason()
				return false
			}
		}
		return true
	})
	if allowed {
		return true, reason, nil
	}
	return false, resolutionProblem(missing), err
}

// resolutionProblem words the roles that bindings name but do not exist.
func resolutionProblem(missing []error) string {
	switch len(missing) {
	case 0:
		return ""
	case 1:
		return "RBAC: " + missing[0].Error()
	}
	texts := make([]string, 0, len(missing))
	for _, err := range missing {
		if text := err.Error(); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	if len(texts) == 1 {
		return "RBAC: " + texts[0]
	}
	return "RBAC: [" + strings.Join(texts, ", ") + "]"
}

// Rules returns what a user may do in a namespace (cluster-wide if it is empty), and the roles that could not be found.
func (r *RBAC) Rules(ctx context.Context, user *call.Identity, namespace string) (rules []rbacv1.PolicyRule, missing []error, err error) {
	err = r.visit(ctx, user, namespace, func(g *grant, err error) bool {
		if err != nil {
			missing = append(missing, err)
		} else {
			rules = append(rules, g.rules...)
		}
		return true
	})
	return rules, missing, err
}

// visit calls each for every grant of a user until it returns false. The grant is reused between calls.
func (r *RBAC) visit(ctx context.Context, user *call.Identity, namespace string, each func(*grant, error) bool) error {
	more := true
	var g grant
	use := func() bool {
		rules, err := r.rules(ctx, g.role, g.namespace)
		g.rules = rules
		more = each(&g, err)
		return more
	}
	err := r.reader.List(ctx, rbac.ClusterRoleBindings.Kind, "", func(o resource.Object) bool {
		b := rbac.ClusterRoleBindings.Cast(o)
		s := applies(b.Subjects, user, "")
		if s == nil {
			return true
		}
		g = grant{binding: b.Name, role: &b.RoleRef, subject: s}
		return use()
	})
	if err != nil || !more || namespace == "" {
		return err
	}
	return r.reader.List(ctx, rbac.RoleBindings.Kind, namespace, func(o resource.Object) bool {
		b := rbac.RoleBindings.Cast(o)
		s := applies(b.Subjects, user, namespace)
		if s == nil {
			return true
		}
		g = grant{binding: b.Name, namespace: namespace, role: &b.RoleRef, subject: s}
		return use()
	})
}

// rules resolves a role; an error says in Kubernetes' words that it does not exist.
func (r *RBAC) rules(ctx context.Context, ref *rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "ClusterRole":
		o, err := r.reader.Get(ctx, rbac.ClusterRoles.Kind, "", ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("clusterrole.rbac.authorization.k8s.io %q not found", ref.Name)
		}
		if err != nil {
			return nil, err
		}
		return rbac.ClusterRoles.Cast(o).Rules, nil
	case "Role":
		o, err := r.reader.Get(ctx, rbac.Roles.Kind, namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("role.rbac.authorization.k8s.io %q not found", ref.Name)
		}
		if err != nil {
			return nil, err
		}
		return rbac.Roles.Cast(o).Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

const serviceAccountPrefix = "system:serviceaccount:"

// applies returns the first subject that is the user. A service account without namespace is of the binding's.
func applies(subjects []rbacv1.Subject, user *call.Identity, namespace string) *rbacv1.Subject {
	for i := range subjects {
		s := &subjects[i]
		switch s.Kind {
		case rbacv1.UserKind:
			if s.Name == user.Name {
				return s
			}
		case rbacv1.GroupKind:
			if slices.Contains(user.Groups, s.Name) {
				return s
			}
		case rbacv1.ServiceAccountKind:
			in := s.Namespace
			if in == "" {
				in = namespace
			}
			rest, ok := strings.CutPrefix(user.Name, serviceAccountPrefix)
			if !ok || in == "" {
				continue
			}
			if n := len(in); len(rest) == n+1+len(s.Name) && rest[:n] == in && rest[n] == ':' && rest[n+1:] == s.Name {
				return s
			}
		}
	}
	return nil
}

// allows tells whether one rule covers a request.
func allows(rule *rbacv1.PolicyRule, a *Attributes) bool {
	if !matches(rule.Verbs, a.Verb) {
		return false
	}
	if a.Path != "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool { return matchesPath(url, a.Path) })
	}
	return matches(rule.APIGroups, a.Group) && matchesResource(rule.Resources, a.Resource, a.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.Name))
}

func matches(list []string, value string) bool {
	for _, s := range list {
		if s == "*" || s == value {
			return true
		}
	}
	return false
}

func matchesPath(url, path string) bool {
	prefix, wild := strings.CutSuffix(url, "*")
	return url == path || wild && strings.HasPrefix(path, prefix)
}

// matchesResource knows "*", "resource", "resource/subresource" and "*/subresource".
func matchesResource(list []string, resource, subresource string) bool {
	for _, s := range list {
		if s == "*" {
			return true
		}
		if subresource == "" {
			if s == resource {
				return true
			}
			continue
		}
		cut := len(s) - len(subresource) - 1
		if cut > 0 && s[cut] == '/' && s[cut+1:] == subresource && (s[:cut] == "*" || s[:cut] == resource) {
			return true
		}
	}
	return false
}
