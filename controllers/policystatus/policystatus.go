// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package policystatus checks the types of what ValidatingAdmissionPolicies say, and writes what is wrong into their status.
//
// A policy is evaluated whatever its status says: expressions see untyped objects, and a warning here is most often a
// misspelled field. Only kinds that a policy names without wildcards are checked, ten at most, custom resources among them.
package policystatus

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/expression"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// maxKinds bounds how many kinds a policy is checked for, as in Kubernetes.
const maxKinds = 10

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	group := []string{admissionv1.GroupName}
	return []rbacv1.PolicyRule{
		{APIGroups: group, Resources: []string{"validatingadmissionpolicies"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: group, Resources: []string{"validatingadmissionpolicies/status"}, Verbs: []string{"get", "patch", "update"}},
		{APIGroups: []string{extension.CustomResourceDefinitions.Group}, Resources: []string{"customresourcedefinitions"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop. kinds are those that are built in.
func New(c *client.Client, kinds []*resource.Kind) controller.Controller {
	r := &reconciler{
		policies: client.Of(c, admissionregistration.ValidatingAdmissionPolicies), definitions: client.Of(c, extension.CustomResourceDefinitions),
		kinds: kinds,
	}
	r.policies.Manager = "validatingadmissionpolicy-status-controller"
	return controller.Controller{
		Name: "validatingadmissionpolicy-status-controller", For: admissionregistration.ValidatingAdmissionPolicies.Kind,
		Needs: Needs(), Workers: 1, Reconcile: r.reconcile,
	}
}

type reconciler struct {
	policies    client.Resource[admissionv1.ValidatingAdmissionPolicy]
	definitions client.Resource[apiextensionsv1.CustomResourceDefinition]
	kinds       []*resource.Kind
	compiler    expression.Compiler
}

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	policies, err := r.policies.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	policy := policies.Get(key)
	if policy == nil || policy.DeletionTimestamp != nil || policy.Status.ObservedGeneration >= policy.Generation && policy.Status.TypeChecking != nil {
		return 0, nil
	}
	definitions, err := r.definitions.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	kinds := slices.Clone(r.kinds)
	for d := range definitions.All("") {
		kinds = append(kinds, extension.Kinds(d)...)
	}
	warnings, err := r.plan(&policy.Spec, kinds)
	if err != nil {
		return 0, fmt.Errorf("check types of policy %s: %w", key, err)
	}
	next := policy.DeepCopy()
	next.Status.ObservedGeneration = policy.Generation
	next.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: warnings}
	_, err = r.policies.UpdateStatus(ctx, next)
	return 0, err
}

// plan returns what is wrong with the validations of a policy, for all of the kinds that it names.
func (r *reconciler) plan(s *admissionv1.ValidatingAdmissionPolicySpec, kinds []*resource.Kind) ([]admissionv1.ExpressionWarning, error) {
	var refs, texts []string
	for i, v := range s.Validations {
		at := fmt.Sprintf("spec.validations[%d].", i)
		refs, texts = append(refs, at+"expression"), append(texts, v.Expression)
		if v.MessageExpression != "" {
			refs, texts = append(refs, at+"messageExpression"), append(texts, v.MessageExpression)
		}
	}
	var variables [][2]string
	for _, v := range s.Variables {
		variables = append(variables, [2]string{v.Name, v.Expression})
	}
	found := make([][]string, len(texts))
	params := paramType(s.ParamKind, kinds)
	for _, kind := range named(s.MatchConstraints, kinds) {
		object := typeOf(kind, "checked.object")
		if object == nil {
			continue
		}
		problems, err := r.compiler.Check(expression.Scope{Params: s.ParamKind != nil, Authorizer: true}, object, params, variables, texts)
		if err != nil {
			return nil, err
		}
		for i, p := range problems {
			if p != "" {
				found[i] = append(found[i], kind.GroupVersionKind.String()+": "+p+"\n")
			}
		}
	}
	var out []admissionv1.ExpressionWarning
	for i, list := range found {
		if len(list) > 0 {
			out = append(out, admissionv1.ExpressionWarning{FieldRef: refs[i], Warning: strings.Join(list, "\n")})
		}
	}
	return out, nil
}

// named are the kinds that rules without wildcards name, in the order of their names.
func named(m *admissionv1.MatchResources, kinds []*resource.Kind) []*resource.Kind {
	if m == nil {
		return nil
	}
	var out []*resource.Kind
	for i := range m.ResourceRules {
		rule := &m.ResourceRules[i]
		if slices.Contains(rule.APIGroups, "*") || slices.Contains(rule.APIVersions, "*") {
			continue
		}
		for _, k := range kinds {
			if slices.Contains(rule.APIGroups, k.Group) && slices.Contains(rule.APIVersions, k.Version) && slices.Contains(rule.Resources, k.Resource) && !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	slices.SortFunc(out, func(a, b *resource.Kind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Resource, b.Resource))
	})
	return out[:min(len(out), maxKinds)]
}

// paramType is the type of the parameters; nil if it is not known.
func paramType(p *admissionv1.ParamKind, kinds []*resource.Kind) *apiservercel.DeclType {
	if p == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(p.APIVersion, p.Kind)
	for _, k := range kinds {
		if k.GroupVersionKind == gvk {
			return typeOf(k, "checked.params")
		}
	}
	return nil
}

// typeOf is nil for custom resources without a schema.
func typeOf(k *resource.Kind, root string) *apiservercel.DeclType {
	if k.Custom == nil {
		return expression.TypeOf(reflect.TypeOf(k.New()), root)
	}
	if props, ok := k.Custom.Schema.(*apiextensionsv1.JSONSchemaProps); ok && props != nil {
		return customType(props, root)
	}
	return nil
}
