// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/lazy"

	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
)

// Schema is what policies need to know of kinds. The Reader of the server has it; without it policies have no parameters
// and apply no configurations.
type Schema interface {
	// KindOf returns the kind that is served under a name, or nil.
	KindOf(gvk schema.GroupVersionKind) *resource.Kind
	// Merge returns a new object: obj with what the configuration says. Fields that are replaced as a whole may not be
	// in it.
	Merge(kind *resource.Kind, obj resource.Object, configuration map[string]any) (resource.Object, error)
}

// policy is what both kinds of policies have, compiled.
type policy struct {
	name       string
	ignores    bool
	match      *matcher
	params     *admissionv1.ParamKind
	conditions *conditions
	variables  []named
	problem    error // makes the policy useless
}

type named struct {
	name    string
	program *expression.Program
}

// environments compile the expressions of one policy: conditions see no variables, messages no authorizer.
type environments struct{ main, messages *expression.Environment }

// compile fills in a policy and returns the environments for what is particular to its kind.
func (d *dynamic) compile(p *policy, scope expression.Scope, match *admissionv1.MatchResources, list []admissionv1.MatchCondition, variables []admissionv1.Variable) (*environments, error) {
	var err error
	if match == nil {
		match = &admissionv1.MatchResources{}
	}
	if p.match, err = newMatcher(d.reader, match); err != nil {
		return nil, err
	}
	plain, quiet := scope, scope
	plain.Mutation, quiet.Mutation, quiet.Authorizer = false, false, false
	conditionsIn, err := d.compiler.Environment(plain)
	if err != nil {
		return nil, err
	}
	if p.conditions, err = newConditions(conditionsIn, list); err != nil {
		return nil, err
	}
	if len(variables) == 0 && !scope.Mutation {
		main, err := d.compiler.Environment(scope)
		if err != nil {
			return nil, err
		}
		messages, err := d.compiler.Environment(quiet)
		return &environments{main, messages}, err
	}
	both, err := d.compiler.WithVariables(scope, quiet)
	if err != nil {
		return nil, err
	}
	for _, v := range variables {
		program, err := both[0].Compile(v.Expression)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", v.Name, err)
		}
		both[0].Declare(v.Name, program.Type)
		p.variables = append(p.variables, named{v.Name, program})
	}
	return &environments{both[0], both[1]}, nil
}

// with returns the names of an evaluation for one parameter, with lazy variables that are paid from the budget.
func (p *policy) with(ctx context.Context, names expression.Names, params any, budget *expression.Budget) expression.Names {
	out := maps.Clone(names)
	if p.params != nil {
		out[expression.Params] = params
	}
	if len(p.variables) == 0 {
		return out
	}
	values := lazy.NewMapValue(types.NewObjectType("kubernetes.variables"))
	for _, v := range p.variables {
		values.Append(v.name, func(*lazy.MapValue) ref.Val {
			value, err, broke := v.program.Evaluate(ctx, out, budget)
			if err == nil {
				err = broke
			}
			if err != nil {
				return types.NewErr("composited variable %q fails to evaluate: %v", v.name, err)
			}
			return value
		})
	}
	out[expression.Variables] = values
	return out
}

// kindOfParams is the kind of the parameters of a policy; nil if it has none.
func (d *dynamic) kindOfParams(p *policy) (*resource.Kind, error) {
	if p.params == nil {
		return nil, nil
	}
	gvk := schema.FromAPIVersionAndKind(p.params.APIVersion, p.params.Kind)
	if s, ok := d.reader.(Schema); ok {
		if kind := s.KindOf(gvk); kind != nil {
			return kind, nil
		}
	}
	return nil, fmt.Errorf("failed to configure policy: failed to find resource referenced by paramKind: '%s'", gvk)
}

// paramsOf are the parameters of a binding, as expressions see them; one null if there is nothing to be looked up.
func (d *dynamic) paramsOf(ctx context.Context, r *Request, kind *resource.Kind, at *admissionv1.ParamRef) ([]any, error) {
	if kind == nil || at == nil {
		return []any{types.NullValue}, nil
	}
	found, err := d.lookup(ctx, r, kind, at)
	if err != nil {
		return nil, fmt.Errorf("failed to configure binding: %w", err)
	}
	if len(found) == 0 && (at.ParameterNotFoundAction == nil || *at.ParameterNotFoundAction == admissionv1.DenyAction) {
		return nil, errors.New("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	var out []any
	for _, o := range found {
		m, err := fieldsOf(o, kind.GroupVersionKind)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (d *dynamic) lookup(ctx context.Context, r *Request, kind *resource.Kind, at *admissionv1.ParamRef) ([]resource.Object, error) {
	namespace := at.Namespace
	switch {
	case kind.Scope == resource.Cluster && namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case kind.Scope == resource.Namespaced && namespace == "":
		if namespace = r.Namespace; namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	}
	if at.Selector == nil {
		o, err := d.reader.Get(ctx, kind, namespace, at.Name)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []resource.Object{o}, err
	}
	chosen, err := metav1.LabelSelectorAsSelector(at.Selector)
	if err != nil {
		return nil, err
	}
	var out []resource.Object
	err = d.reader.List(ctx, kind, namespace, func(o resource.Object) bool {
		if chosen.Matches(labels.Set(o.GetLabels())) {
			out = append(out, o)
		}
		return true
	})
	return out, err
}

// binding says where a policy is in force.
type binding struct {
	name, policy string
	match        *matcher // nil matches all
	params       *admissionv1.ParamRef
	actions      []admissionv1.ValidationAction
	problem      error
}

func (d *dynamic) newBinding(name, policy string, match *admissionv1.MatchResources, params *admissionv1.ParamRef) *binding {
	b := &binding{name: name, policy: policy, params: params}
	if match != nil {
		if b.match, b.problem = newMatcher(d.reader, match); b.problem == nil {
			b.match.everything = true
		}
	}
	return b
}

// concerns tells whether a binding of a policy is about a request.
func (b *binding) concerns(ctx context.Context, r *Request, policy string) (bool, error) {
	if b.policy != policy {
		return false, nil
	}
	if b.problem != nil || b.match == nil {
		return b.problem == nil, b.problem
	}
	form, err := b.match.match(ctx, r)
	return form != nil, err
}

// refusedBy is the error of a policy.
func refusedBy(r *Request, text string, reason metav1.StatusReason) *apierrors.StatusError {
	err := forbidden(r, text)
	err.ErrStatus.Reason = reason
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: text})
	return err
}

// failed says that an expression could not be evaluated.
func failed(p *expression.Program, err error) string {
	return fmt.Sprintf("expression '%s' resulted in error: %v", strings.TrimSpace(p.Text), err)
}
