// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/cel-go/cel"
	authorizationv1 "k8s.io/api/authorization/v1"
	authorizationv1beta1 "k8s.io/api/authorization/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	apiservercel "k8s.io/apiserver/pkg/cel"

	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/callout"
	"knarr.dev/apiserver/condition"
)

// WebhookConfig describes an authorizer that asks a webhook.
type WebhookConfig struct {
	// Name is for errors.
	Name   string
	Client *callout.Client
	// Version is that of the SubjectAccessReview which is sent: v1 or v1beta1.
	Version string
	// AuthorizedTTL and UnauthorizedTTL say how long answers are remembered; 0 is not at all.
	AuthorizedTTL, UnauthorizedTTL time.Duration
	// DenyOnFailure refuses requests when the webhook or a condition fails, instead of having no opinion.
	DenyOnFailure bool
	// Conditions are CEL expressions over "request" that must all be true for the webhook to be asked.
	Conditions []string
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Webhook asks a webhook, once for the same question within a time.
//
// See https://kubernetes.io/docs/reference/access-authn-authz/webhook/.
type Webhook struct {
	cfg        WebhookConfig
	conditions []*condition.Program
	known      authn.Memory[string, remembered]
}

type remembered struct {
	decision Decision
	reason   string
	until    time.Time
}

// maxRemembered is the size of a question beyond which its answer is not remembered.
const maxRemembered = 10000

// NewWebhook returns the authorizer; it compiles the conditions.
func NewWebhook(cfg WebhookConfig) (*Webhook, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	w := &Webhook{cfg: cfg}
	if len(cfg.Conditions) == 0 {
		return w, nil
	}
	env := condition.New(condition.Variable{Name: "request", Declaration: reviewType()})
	for i, expression := range cfg.Conditions {
		p, err := env.Compile(expression, cel.BoolType)
		if err != nil {
			return nil, fmt.Errorf("matchConditions[%d].expression: %w", i, err)
		}
		w.conditions = append(w.conditions, p)
	}
	return w, nil
}

// reviewType is the specification of a SubjectAccessReview.
func reviewType() *apiservercel.DeclType {
	text := apiservercel.StringType
	requirement := condition.Object("kubernetes.SelectorRequirement", map[string]*apiservercel.DeclType{
		"key": text, "operator": text, "values": condition.Strings(),
	})
	selector := func(name string) *apiservercel.DeclType {
		return condition.Object(name, map[string]*apiservercel.DeclType{
			"rawSelector": text, "requirements": apiservercel.NewListType(requirement, -1),
		})
	}
	return condition.Object("kubernetes.SubjectAccessReviewSpec", map[string]*apiservercel.DeclType{
		"user": text, "uid": text, "groups": condition.Strings(), "extra": condition.Extra(),
		"resourceAttributes": condition.Object("kubernetes.ResourceAttributes", map[string]*apiservercel.DeclType{
			"namespace": text, "verb": text, "group": text, "version": text, "resource": text, "subresource": text, "name": text,
			"fieldSelector": selector("kubernetes.FieldSelectorAttributes"), "labelSelector": selector("kubernetes.LabelSelectorAttributes"),
		}),
		"nonResourceAttributes": condition.Object("kubernetes.NonResourceAttributes", map[string]*apiservercel.DeclType{"path": text, "verb": text}),
	})
}

// Authorize implements Authorizer.
func (w *Webhook) Authorize(ctx context.Context, a *Attributes) (bool, string, error) {
	d, reason, err := w.Decide(ctx, a)
	return d == Allow, reason, err
}

// Decide implements Decider.
func (w *Webhook) Decide(ctx context.Context, a *Attributes) (Decision, string, error) {
	spec := Spec(a)
	ask, err := w.concerned(ctx, spec)
	if err != nil {
		return w.failed(err)
	}
	if !ask {
		return NoOpinion, "", nil
	}
	question, err := json.Marshal(spec)
	if err != nil {
		return w.failed(err)
	}
	now := w.cfg.Now()
	if r, ok := w.known.Get(string(question)); ok && now.Before(r.until) {
		return r.decision, r.reason, nil
	}
	status, err := w.ask(ctx, spec)
	if err != nil {
		return w.failed(err)
	}
	r := remembered{reason: status.Reason, until: now.Add(w.cfg.UnauthorizedTTL)}
	switch {
	case status.Allowed && status.Denied:
		return w.failed(errors.New("the webhook both allowed and denied the request"))
	case status.Denied:
		r.decision = Deny
	case status.Allowed:
		r.decision, r.until = Allow, now.Add(w.cfg.AuthorizedTTL)
	}
	if status.EvaluationError != "" {
		err = errors.New(status.EvaluationError)
	} else if len(question) <= maxRemembered && r.until.After(now) {
		w.known.Put(string(question), r)
	}
	return r.decision, r.reason, err
}

func (w *Webhook) failed(err error) (Decision, string, error) {
	err = fmt.Errorf("authorization webhook %s: %w", w.cfg.Name, err)
	if w.cfg.DenyOnFailure {
		return Deny, "", err
	}
	return NoOpinion, "", err
}

// concerned says whether all conditions are true. One that is false wins over errors.
func (w *Webhook) concerned(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (bool, error) {
	if len(w.conditions) == 0 {
		return true, nil
	}
	request, err := requestOf(spec)
	if err != nil {
		return false, err
	}
	var problems []error
	for _, c := range w.conditions {
		ok, err := c.True(ctx, map[string]any{"request": request})
		switch {
		case err != nil:
			problems = append(problems, err)
		case !ok:
			return false, nil
		}
	}
	return len(problems) == 0, errors.Join(problems...)
}

// requestOf is a specification for expressions: texts that are empty are there all the same.
func requestOf(spec *authorizationv1.SubjectAccessReviewSpec) (map[string]any, error) {
	request, err := runtime.DefaultUnstructuredConverter.ToUnstructured(spec)
	if err != nil {
		return nil, err
	}
	fill := func(in map[string]any, names ...string) {
		for _, name := range names {
			if _, ok := in[name]; !ok {
				in[name] = ""
			}
		}
	}
	fill(request, "user", "uid")
	if _, ok := request["groups"]; !ok {
		request["groups"] = []any{}
	}
	if _, ok := request["extra"]; !ok {
		request["extra"] = map[string]any{}
	}
	if r, ok := request["resourceAttributes"].(map[string]any); ok {
		fill(r, "namespace", "verb", "group", "version", "resource", "subresource", "name")
	}
	if r, ok := request["nonResourceAttributes"].(map[string]any); ok {
		fill(r, "path", "verb")
	}
	return request, nil
}

func (w *Webhook) ask(ctx context.Context, spec *authorizationv1.SubjectAccessReviewSpec) (*authorizationv1.SubjectAccessReviewStatus, error) {
	if w.cfg.Version != "v1beta1" {
		review := &authorizationv1.SubjectAccessReview{Spec: *spec}
		review.TypeMeta = metav1.TypeMeta{Kind: "SubjectAccessReview", APIVersion: "authorization.k8s.io/v1"}
		answer := &authorizationv1.SubjectAccessReview{}
		return &answer.Status, w.cfg.Client.Post(ctx, review, answer)
	}
	review := &authorizationv1beta1.SubjectAccessReview{Spec: authorizationv1beta1.SubjectAccessReviewSpec{
		User: spec.User, UID: spec.UID, Groups: spec.Groups,
		ResourceAttributes: (*authorizationv1beta1.ResourceAttributes)(nil),
	}}
	review.TypeMeta = metav1.TypeMeta{Kind: "SubjectAccessReview", APIVersion: "authorization.k8s.io/v1beta1"}
	if r := spec.ResourceAttributes; r != nil {
		review.Spec.ResourceAttributes = &authorizationv1beta1.ResourceAttributes{
			Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Version: r.Version, Resource: r.Resource, Subresource: r.Subresource,
			Name: r.Name, FieldSelector: r.FieldSelector, LabelSelector: r.LabelSelector,
		}
	}
	if r := spec.NonResourceAttributes; r != nil {
		review.Spec.NonResourceAttributes = &authorizationv1beta1.NonResourceAttributes{Path: r.Path, Verb: r.Verb}
	}
	for k, v := range spec.Extra {
		if review.Spec.Extra == nil {
			review.Spec.Extra = map[string]authorizationv1beta1.ExtraValue{}
		}
		review.Spec.Extra[k] = authorizationv1beta1.ExtraValue(v)
	}
	answer := &authorizationv1beta1.SubjectAccessReview{}
	err := w.cfg.Client.Post(ctx, review, answer)
	return &authorizationv1.SubjectAccessReviewStatus{
		Allowed: answer.Status.Allowed, Denied: answer.Status.Denied, Reason: answer.Status.Reason, EvaluationError: answer.Status.EvaluationError,
	}, err
}

// Spec is a question as the specification of a SubjectAccessReview.
func Spec(a *Attributes) *authorizationv1.SubjectAccessReviewSpec {
	spec := &authorizationv1.SubjectAccessReviewSpec{User: a.User.Name, UID: a.User.UID, Groups: a.User.Groups}
	for k, v := range a.User.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[k] = v
	}
	if a.Path != "" {
		spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
		return spec
	}
	r := &authorizationv1.ResourceAttributes{
		Namespace: a.Namespace, Verb: a.Verb, Group: a.Group, Version: a.Version, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
	}
	if a.Fields != nil && !a.Fields.Empty() {
		r.FieldSelector = &authorizationv1.FieldSelectorAttributes{}
		for _, q := range a.Fields.Requirements() {
			operator := metav1.FieldSelectorOpIn
			if q.Operator == selection.NotEquals {
				operator = metav1.FieldSelectorOpNotIn
			}
			r.FieldSelector.Requirements = append(r.FieldSelector.Requirements, metav1.FieldSelectorRequirement{
				Key: q.Field, Operator: operator, Values: []string{q.Value},
			})
		}
	}
	if a.Labels != nil && !a.Labels.Empty() {
		requirements, _ := a.Labels.Requirements()
		r.LabelSelector = &authorizationv1.LabelSelectorAttributes{}
		for _, q := range requirements {
			if out, ok := labelRequirement(q.Key(), q.Operator(), q.Values().List()); ok {
				r.LabelSelector.Requirements = append(r.LabelSelector.Requirements, out)
			}
		}
	}
	spec.ResourceAttributes = r
	return spec
}

// labelRequirement is a requirement in the form of the API; comparisons of numbers have none.
func labelRequirement(key string, operator selection.Operator, values []string) (metav1.LabelSelectorRequirement, bool) {
	out := metav1.LabelSelectorRequirement{Key: key, Values: values}
	switch operator {
	case selection.In, selection.Equals, selection.DoubleEquals:
		out.Operator = metav1.LabelSelectorOpIn
	case selection.NotIn, selection.NotEquals:
		out.Operator = metav1.LabelSelectorOpNotIn
	case selection.Exists:
		out.Operator, out.Values = metav1.LabelSelectorOpExists, nil
	case selection.DoesNotExist:
		out.Operator, out.Values = metav1.LabelSelectorOpDoesNotExist, nil
	default:
		return out, false
	}
	return out, true
}

// Dynamic is an authorizer that may be replaced while it works, as when a configuration file changes.
type Dynamic struct {
	mu      sync.RWMutex
	current Authorizer
}

// Set replaces the authorizer.
func (d *Dynamic) Set(a Authorizer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = a
}

func (d *Dynamic) get() Authorizer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.current
}

// Authorize implements Authorizer.
func (d *Dynamic) Authorize(ctx context.Context, a *Attributes) (bool, string, error) {
	return d.get().Authorize(ctx, a)
}

// Decide implements Decider.
func (d *Dynamic) Decide(ctx context.Context, a *Attributes) (Decision, string, error) {
	return Decide(ctx, d.get(), a)
}
