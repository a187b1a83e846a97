// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// matcher decides whether a webhook, policy or binding is about a request.
type matcher struct {
	reader            Reader
	rules, except     []admissionv1.NamedRuleWithOperations
	exact             bool
	namespaces, items labels.Selector
	// everything matches without any rule, as bindings do.
	everything bool
}

// newMatcher compiles selectors.
func newMatcher(reader Reader, m *admissionv1.MatchResources) (*matcher, error) {
	out := &matcher{
		reader: reader, rules: m.ResourceRules, except: m.ExcludeResourceRules,
		exact: m.MatchPolicy != nil && *m.MatchPolicy == admissionv1.Exact,
	}
	var err error
	if out.namespaces, err = selector(m.NamespaceSelector); err != nil {
		return nil, err
	}
	out.items, err = selector(m.ObjectSelector)
	return out, err
}

func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// match returns the form in which the request's resource is matched, or nil.
func (m *matcher) match(ctx context.Context, r *Request) (*resource.Kind, error) {
	if !m.about(r) {
		return nil, nil
	}
	if ok, err := m.inNamespace(ctx, r); err != nil || !ok {
		return nil, err
	}
	if m.matchesAny(m.except, r, r.forms(m.exact)) != nil {
		return nil, nil
	}
	if m.everything && len(m.rules) == 0 {
		return r.served(), nil
	}
	return m.matchesAny(m.rules, r, r.forms(m.exact)), nil
}

// matchesAny prefers the form that the request itself names.
func (*matcher) matchesAny(rules []admissionv1.NamedRuleWithOperations, r *Request, forms []*resource.Kind) *resource.Kind {
	for _, form := range forms {
		for i := range rules {
			rule := &rules[i]
			if ruleMatches(&rule.RuleWithOperations, r, form.GroupVersionResource()) && (len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.Name)) {
				return form
			}
		}
	}
	return nil
}

// about tells whether the object, new or old, has the labels.
func (m *matcher) about(r *Request) bool {
	if m.items.Empty() {
		return true
	}
	for _, o := range []resource.Object{r.Object, r.Old} {
		if o != nil && r.labelled() && m.items.Matches(labels.Set(o.GetLabels())) {
			return true
		}
	}
	return false
}

// inNamespace tells whether the namespace of the object, or the Namespace itself, has the labels.
func (m *matcher) inNamespace(ctx context.Context, r *Request) (bool, error) {
	if m.namespaces.Empty() {
		return true, nil
	}
	if r.Kind == core.Namespaces.Kind {
		o := r.Object
		if o == nil {
			o = r.Old
		}
		return o == nil || m.namespaces.Matches(labels.Set(o.GetLabels())), nil
	}
	if r.Namespace == "" {
		return true, nil
	}
	o, err := m.reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
	if err != nil {
		return false, err
	}
	return m.namespaces.Matches(labels.Set(o.GetLabels())), nil
}

func ruleMatches(rule *admissionv1.RuleWithOperations, r *Request, gvr schema.GroupVersionResource) bool {
	if rule.Scope != nil {
		namespaced := r.Namespace != "" && r.Kind != core.Namespaces.Kind
		if *rule.Scope == admissionv1.NamespacedScope && !namespaced || *rule.Scope == admissionv1.ClusterScope && namespaced {
			return false
		}
	}
	return has(rule.APIGroups, gvr.Group) && has(rule.APIVersions, gvr.Version) && hasOperation(rule.Operations, r.operation()) &&
		slices.ContainsFunc(rule.Resources, func(s string) bool {
			name, sub, _ := strings.Cut(s, "/")
			return (name == "*" || name == gvr.Resource) && (sub == "*" || sub == r.Subresource)
		})
}

func has(list []string, s string) bool { return slices.Contains(list, "*") || slices.Contains(list, s) }

func hasOperation(list []admissionv1.OperationType, o admissionv1.OperationType) bool {
	return slices.Contains(list, admissionv1.OperationAll) || slices.Contains(list, o)
}
