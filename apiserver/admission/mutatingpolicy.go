// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/cel/mutation"
	made "k8s.io/apiserver/pkg/cel/mutation/dynamic"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/codec"
	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
)

// mutatingPolicy is a MutatingAdmissionPolicy, compiled.
type mutatingPolicy struct {
	policy
	again   bool
	changes []*expression.Program // each makes an Object or a list of JSONPatch
}

func (d *dynamic) newMutatingPolicy(o resource.Object) *mutatingPolicy {
	obj := admissionregistration.MutatingAdmissionPolicies.Cast(o)
	s := &obj.Spec
	p := &mutatingPolicy{again: s.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy, policy: policy{
		name: obj.Name, ignores: s.FailurePolicy != nil && *s.FailurePolicy == admissionv1.Ignore, params: s.ParamKind,
	}}
	scope := expression.Scope{Params: s.ParamKind != nil, Authorizer: true, Mutation: true}
	e, err := d.compile(&p.policy, scope, s.MatchConstraints, s.MatchConditions, s.Variables)
	for _, m := range s.Mutations {
		var program *expression.Program
		switch {
		case err != nil:
		case m.ApplyConfiguration != nil:
			program, err = e.main.Compile(m.ApplyConfiguration.Expression, expression.Configuration)
		case m.JSONPatch != nil:
			program, err = e.main.Compile(m.JSONPatch.Expression, expression.Patch)
		default:
			err = fmt.Errorf("patch type %q is not known", m.PatchType)
		}
		p.changes = append(p.changes, program)
	}
	p.problem = err
	return p
}

// mutatingPolicies changes objects by expressions.
func (d *dynamic) mutatingPolicies() Step {
	var policies inForce[*mutatingPolicy]
	var bindings inForce[*binding]
	bind := func(o resource.Object) *binding {
		b := admissionregistration.MutatingAdmissionPolicyBindings.Cast(o)
		return d.newBinding(b.Name, b.Spec.PolicyName, b.Spec.MatchResources, b.Spec.ParamRef)
	}
	return Step{Name: "MutatingAdmissionPolicy", Mutate: func(ctx context.Context, r *Request) error {
		bound, err := bindings.all(ctx, d, r, admissionregistration.MutatingAdmissionPolicyBindings.Kind, bind)
		if err != nil {
			return err
		}
		all, err := policies.all(ctx, d, r, admissionregistration.MutatingAdmissionPolicies.Kind, d.newMutatingPolicy)
		if err != nil {
			return err
		}
		if len(bound) == 0 || exemptPolicy(r) || r.Object == nil {
			return nil
		}
		for _, p := range all {
			if err := d.mutateByPolicy(ctx, r, p, bound); err != nil {
				return err
			}
		}
		return nil
	}}
}

func (d *dynamic) mutateByPolicy(ctx context.Context, r *Request, p *mutatingPolicy, bound []*binding) error {
	if !slices.ContainsFunc(bound, func(b *binding) bool { return b.policy == p.name }) {
		return nil
	}
	misconfigured := func(err error) error {
		if p.ignores {
			return nil
		}
		return refusedByMutation(r, fmt.Sprintf("policy %q denied request: %v", p.name, err), metav1.StatusReasonForbidden)
	}
	if p.match == nil {
		return misconfigured(p.problem)
	}
	form, err := p.match.match(ctx, r)
	if err != nil || form == nil {
		return err
	}
	kind, err := d.kindOfParams(&p.policy)
	if err == nil {
		err = p.problem
	}
	if err != nil {
		return misconfigured(err)
	}
	for _, b := range bound {
		concerns, err := b.concerns(ctx, r, p.name)
		if err != nil {
			return err
		}
		if id := (invocation{p.name, b.name}); concerns && r.due(id, p.again) {
			if err := d.mutateByBinding(ctx, r, p, b, form, kind); err != nil {
				return err
			}
			r.called(id, p.again)
		}
	}
	return nil
}

// invocation names a policy with a binding.
type invocation struct{ policy, binding string }

func refusedByMutation(r *Request, text string, reason metav1.StatusReason) error {
	err := refusedBy(r, text, reason)
	err.ErrStatus.Message, err.ErrStatus.Code = text, http.StatusForbidden
	return err
}

func (d *dynamic) mutateByBinding(ctx context.Context, r *Request, p *mutatingPolicy, b *binding, form, kind *resource.Kind) error {
	began, problem := time.Now(), checkBroken
	params, err := d.paramsOf(ctx, r, kind, b.params)
	reason := metav1.StatusReasonForbidden
	if err == nil {
		reason, problem = metav1.StatusReasonInvalid, checkInvalid
		for _, param := range params {
			if err = d.change(ctx, r, p, form, param); err != nil {
				break
			}
		}
	}
	var wrong *wrongOutcome
	count := func(problem string) { d.figures.mutating.check(began, problem, p.name, b.name) }
	switch {
	case err == nil:
		count(checkPassed)
		return nil
	case errors.As(err, &wrong):
		count(problem)
		return apierrors.NewInternalError(wrong.cause)
	case p.ignores:
		count(problem)
		return nil
	}
	count(problem)
	return refusedByMutation(r, fmt.Sprintf("policy '%s' with binding '%s' denied request: %v", p.name, b.name, err), reason)
}

// wrongOutcome says that what a policy made is no object of the kind.
type wrongOutcome struct{ cause error }

func (e *wrongOutcome) Error() string { return e.cause.Error() }

// change lets a policy change the object, with one parameter.
func (d *dynamic) change(ctx context.Context, r *Request, p *mutatingPolicy, form *resource.Kind, param any) error {
	budget := expression.PolicyBudget
	for i, program := range p.changes {
		names, err := d.names(ctx, r, form)
		if err != nil {
			return err
		}
		names = p.with(ctx, names, param, &budget)
		if i == 0 {
			if ok, err := p.conditions.holdFor(ctx, names); err != nil || !ok {
				return err
			}
		}
		value, err, broke := program.Evaluate(ctx, names, &budget)
		if broke != nil {
			return broke
		}
		if err != nil {
			return errors.New(failed(program, err))
		}
		before := r.state()
		switch v := value.(type) {
		case *made.ObjectVal:
			err = d.applyConfiguration(r, form, v)
		case traits.Lister:
			err = r.applyPatches(form, v)
		default:
			err = fmt.Errorf("expression made a %s", value.Type().TypeName())
		}
		if err != nil {
			return err
		}
		if before != r.state() {
			r.changed = true
		}
	}
	return nil
}

// applyConfiguration merges an object of an expression into that of the request.
func (d *dynamic) applyConfiguration(r *Request, form *resource.Kind, v *made.ObjectVal) error {
	if err := v.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return fmt.Errorf("type mismatch: %w", err)
	}
	native, err := v.ConvertToNative(reflect.TypeFor[map[string]any]())
	if err != nil {
		return err
	}
	configuration, ok := native.(map[string]any)
	s, known := d.reader.(Schema)
	if !ok || !known {
		return errors.New("configurations are not known here")
	}
	shown, gvk, err := r.shown(form, r.Object)
	if err != nil {
		return err
	}
	kind := form
	if gvk != form.GroupVersionKind {
		kind = &resource.Kind{GroupVersionKind: gvk, New: func() resource.Object { return blank(shown) }}
	}
	merged, err := s.Merge(kind, shown, configuration)
	if err != nil {
		return fmt.Errorf("error applying patch: %w", err)
	}
	return r.replace(form, merged)
}

// applyPatches makes the JSON patches of an expression. A test that fails ends them, and changes nothing.
func (r *Request) applyPatches(form *resource.Kind, list traits.Lister) error {
	var operations []map[string]any
	for it := list.Iterator(); it.HasNext() == types.True; {
		p, ok := it.Next().(*mutation.JSONPatchVal)
		if !ok {
			return errors.New("JSON Patch: not a list of operations")
		}
		o := map[string]any{"op": p.Op, "path": p.Path}
		if p.From != "" {
			o["from"] = p.From
		}
		if p.Val != nil {
			value, err := jsonOf(p.Val)
			if err != nil {
				return fmt.Errorf("JSON Patch: %w", err)
			}
			o["value"] = json.RawMessage(value)
		}
		operations = append(operations, o)
	}
	if len(operations) == 0 {
		return nil
	}
	raw, err := json.Marshal(operations)
	if err != nil {
		return fmt.Errorf("JSON Patch: %w", err)
	}
	patch, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		return fmt.Errorf("JSON Patch: %w", err)
	}
	shown, gvk, err := r.shown(form, r.Object)
	if err != nil {
		return err
	}
	before, err := codec.EncodeJSON(gvk, shown)
	if err != nil {
		return err
	}
	after, err := patch.Apply(before)
	switch {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		return nil
	case err != nil:
		return fmt.Errorf("JSON Patch: %w", err)
	}
	fresh := blank(shown)
	decoded, err := codec.Decode(codec.JSON, after, fresh)
	if err == nil && len(decoded.Strict) > 0 {
		err = runtime.NewStrictDecodingError(decoded.Strict)
	}
	if err != nil {
		return &wrongOutcome{err}
	}
	return r.replace(form, fresh)
}

// jsonOf is a value of an expression as JSON.
func jsonOf(v ref.Val) ([]byte, error) {
	if o, ok := v.(*made.ObjectVal); ok {
		native, err := o.ConvertToNative(reflect.TypeFor[map[string]any]())
		if err != nil {
			return nil, err
		}
		return json.Marshal(native)
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, err
	}
	return native.(*structpb.Value).MarshalJSON()
}
