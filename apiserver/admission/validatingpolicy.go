// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/admissionregistration"
	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
)

// Bounds of what expressions make.
const (
	maxMessage         = 5 * 1024
	maxAuditAnnotation = 10 * 1024
)

// validatingPolicy is a ValidatingAdmissionPolicy, compiled.
type validatingPolicy struct {
	policy
	checks []check
	audits []named
}

type check struct {
	program, message *expression.Program // message may be nil
	spec             *admissionv1.Validation
}

func (d *dynamic) newValidatingPolicy(o resource.Object) *validatingPolicy {
	obj := admissionregistration.ValidatingAdmissionPolicies.Cast(o)
	s := &obj.Spec
	p := &validatingPolicy{policy: policy{
		name: obj.Name, ignores: s.FailurePolicy != nil && *s.FailurePolicy == admissionv1.Ignore, params: s.ParamKind,
	}}
	scope := expression.Scope{Params: s.ParamKind != nil, Authorizer: true}
	e, err := d.compile(&p.policy, scope, s.MatchConstraints, s.MatchConditions, s.Variables)
	for i := range s.Validations {
		c := check{spec: &s.Validations[i]}
		if err == nil {
			c.program, err = e.main.Compile(c.spec.Expression, expression.Bool)
		}
		if err == nil && c.spec.MessageExpression != "" {
			c.message, err = e.messages.Compile(c.spec.MessageExpression, expression.String)
		}
		p.checks = append(p.checks, c)
	}
	for _, a := range s.AuditAnnotations {
		var program *expression.Program
		if err == nil {
			program, err = e.main.Compile(a.ValueExpression, expression.String, expression.Null)
		}
		p.audits = append(p.audits, named{a.Key, program})
	}
	p.problem = err
	return p
}

// validatingPolicies judges objects by expressions.
func (d *dynamic) validatingPolicies() Step {
	var policies inForce[*validatingPolicy]
	var bindings inForce[*binding]
	bind := func(o resource.Object) *binding {
		b := admissionregistration.ValidatingAdmissionPolicyBindings.Cast(o)
		out := d.newBinding(b.Name, b.Spec.PolicyName, b.Spec.MatchResources, b.Spec.ParamRef)
		out.actions = b.Spec.ValidationActions
		return out
	}
	return Step{Name: "ValidatingAdmissionPolicy", Validate: func(ctx context.Context, r *Request) error {
		bound, err := bindings.all(ctx, d, r, admissionregistration.ValidatingAdmissionPolicyBindings.Kind, bind)
		if err != nil {
			return err
		}
		all, err := policies.all(ctx, d, r, admissionregistration.ValidatingAdmissionPolicies.Kind, d.newValidatingPolicy)
		if err != nil {
			return err
		}
		if len(bound) == 0 || exemptPolicy(r) {
			return nil
		}
		j := &judgement{d: d, r: r, names: map[*resource.Kind]expression.Names{}, audits: map[string][]string{}}
		for _, p := range all {
			if err := j.judge(ctx, p, bound); err != nil {
				return err
			}
		}
		return j.sentence()
	}}
}

// judgement is what the policies say about one request.
type judgement struct {
	d        *dynamic
	r        *Request
	names    map[*resource.Kind]expression.Names
	denied   error // the first
	recorded []violation
	audits   map[string][]string
	keys     []string  // of audits, in order
	began    time.Time // the evaluation of an expression
}

// violation is an entry of the audit annotation for what was let through.
type violation struct {
	Message           string                         `json:"message"`
	Policy            string                         `json:"policy"`
	Binding           string                         `json:"binding"`
	ExpressionIndex   int                            `json:"expressionIndex"`
	ValidationActions []admissionv1.ValidationAction `json:"validationActions"`
}

func (j *judgement) judge(ctx context.Context, p *validatingPolicy, bound []*binding) error {
	if !slices.ContainsFunc(bound, func(b *binding) bool { return b.policy == p.name }) {
		return nil
	}
	if p.match == nil {
		j.misconfigured(p, nil, p.problem)
		return nil
	}
	form, err := p.match.match(ctx, j.r)
	if err != nil || form == nil {
		return err
	}
	kind, err := j.d.kindOfParams(&p.policy)
	if err == nil {
		err = p.problem
	}
	if err != nil {
		j.misconfigured(p, nil, err)
		return nil
	}
	for _, b := range bound {
		concerns, err := b.concerns(ctx, j.r, p.name)
		if err != nil {
			return err
		}
		if !concerns {
			continue
		}
		params, err := j.d.paramsOf(ctx, j.r, kind, b.params)
		if err != nil {
			j.misconfigured(p, b, err)
			continue
		}
		if j.names[form] == nil {
			if j.names[form], err = j.d.names(ctx, j.r, form); err != nil {
				return err
			}
		}
		for _, param := range params {
			j.evaluate(ctx, p, b, j.names[form], param)
		}
	}
	return nil
}

// misconfigured refuses by a policy that cannot be evaluated, unless it may fail.
func (j *judgement) misconfigured(p *validatingPolicy, b *binding, err error) {
	if p.ignores {
		return
	}
	text := "ValidatingAdmissionPolicy '" + p.name + "'"
	if b != nil {
		text += " with binding '" + b.name + "'"
	}
	j.count(p, b, "deny", checkBroken)
	j.deny(text+" denied request: "+err.Error(), metav1.StatusReasonInvalid)
}

func (j *judgement) deny(text string, reason metav1.StatusReason) {
	if j.denied != nil {
		return
	}
	err := refusedBy(j.r, text, reason)
	err.ErrStatus.Code = codeOf(reason)
	j.denied = err
}

func codeOf(reason metav1.StatusReason) int32 {
	switch reason {
	case metav1.StatusReasonForbidden:
		return http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		return http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusUnprocessableEntity
}

// evaluate runs a policy for one binding and parameter.
func (j *judgement) evaluate(ctx context.Context, p *validatingPolicy, b *binding, names expression.Names, param any) {
	budget := expression.PolicyBudget
	names = p.with(ctx, names, param, &budget)
	j.began = time.Now()
	ok, err := p.conditions.holdFor(ctx, names)
	switch {
	case err != nil:
		j.broke(p, b, 0, err.Error(), checkInvalid)
		return
	case !ok:
		return
	}
	for i := range p.checks {
		c := &p.checks[i]
		j.began = time.Now()
		value, err, broke := c.program.Evaluate(ctx, names, &budget)
		switch {
		case broke != nil:
			j.broke(p, b, i, broke.Error(), checkCostly)
			return
		case err != nil:
			j.broke(p, b, i, failed(c.program, err), checkInvalid)
		case value != types.True:
			reason := metav1.StatusReasonInvalid
			if c.spec.Reason != nil {
				reason = *c.spec.Reason
			}
			j.act(p, b, i, c.text(ctx, names, &budget), reason, checkInvalid)
		}
	}
	j.annotate(ctx, p, b, names, &budget)
}

// text says what is wrong.
func (c *check) text(ctx context.Context, names expression.Names, budget *expression.Budget) string {
	if c.message != nil {
		value, err, broke := c.message.Evaluate(ctx, names, budget)
		if s, ok := value.(types.String); err == nil && broke == nil && ok {
			text := strings.TrimSpace(string(s))
			if text != "" && len(s) <= maxMessage && !strings.Contains(text, "\n") {
				return text
			}
		}
	}
	if text := strings.TrimSpace(c.spec.Message); text != "" {
		return text
	}
	return "failed expression: " + strings.TrimSpace(c.spec.Expression)
}

// broke does what is to be done when an expression has no result.
func (j *judgement) broke(p *validatingPolicy, b *binding, index int, text, problem string) {
	if p.ignores {
		j.count(p, b, "allow", problem)
		return
	}
	j.act(p, b, index, text, metav1.StatusReasonInvalid, problem)
}

// count counts what came of a policy.
func (j *judgement) count(p *validatingPolicy, b *binding, action, problem string) {
	binding := ""
	if b != nil {
		binding = b.name
	}
	began := j.began
	if began.IsZero() { // nothing was evaluated
		began = time.Now()
	}
	j.d.figures.validating.check(began, action, problem, p.name, binding)
}

// act does what a binding wants done about a violation.
func (j *judgement) act(p *validatingPolicy, b *binding, index int, text string, reason metav1.StatusReason, problem string) {
	for _, action := range b.actions {
		j.count(p, b, strings.ToLower(string(action)), problem)
		switch action {
		case admissionv1.Deny:
			j.deny("ValidatingAdmissionPolicy '"+p.name+"' with binding '"+b.name+"' denied request: "+text, reason)
		case admissionv1.Warn:
			j.r.Warn("Validation failed for ValidatingAdmissionPolicy '" + p.name + "' with binding '" + b.name + "': " + text)
		case admissionv1.Audit:
			j.recorded = append(j.recorded, violation{text, p.name, b.name, index, b.actions})
		}
	}
}

// annotate evaluates the audit annotations.
func (j *judgement) annotate(ctx context.Context, p *validatingPolicy, b *binding, names expression.Names, budget *expression.Budget) {
	for i, a := range p.audits {
		value, err, broke := a.program.Evaluate(ctx, names, budget)
		if err == nil {
			err = broke
		}
		if err != nil {
			j.broke(p, b, i, failed(a.program, err), checkInvalid)
			continue
		}
		text, ok := value.(types.String)
		if !ok || text == "" {
			continue
		}
		key, s := p.name+"/"+a.name, string(text[:min(len(text), maxAuditAnnotation)])
		if j.audits[key] == nil {
			j.keys = append(j.keys, key)
		}
		if !slices.Contains(j.audits[key], s) {
			j.audits[key] = append(j.audits[key], s)
		}
	}
}

// sentence writes the audit annotations and returns the first refusal.
func (j *judgement) sentence() error {
	for _, key := range j.keys {
		j.r.Annotate(key, strings.Join(j.audits[key], ", "))
	}
	if len(j.recorded) > 0 {
		if raw, err := json.Marshal(j.recorded); err == nil {
			j.r.Annotate("validation.policy.admission.k8s.io/validation_failure", string(raw))
		}
	}
	return j.denied
}
