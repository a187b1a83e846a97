// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/cel-go/common/types"
	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/expression"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/authz"
)

// conditions are match conditions, compiled.
type conditions struct{ programs []*expression.Program }

func (d *dynamic) webhookConditions(list []admissionv1.MatchCondition) (*conditions, error) {
	if len(list) == 0 {
		return nil, nil
	}
	e, err := d.compiler.Environment(expression.Scope{Authorizer: true})
	if err != nil {
		return nil, err
	}
	return newConditions(e, list)
}

func newConditions(e *expression.Environment, list []admissionv1.MatchCondition) (*conditions, error) {
	if len(list) == 0 {
		return nil, nil
	}
	c := &conditions{}
	for _, m := range list {
		p, err := e.Compile(m.Expression, expression.Bool)
		if err != nil {
			return nil, fmt.Errorf("match condition %s: %w", m.Name, err)
		}
		c.programs = append(c.programs, p)
	}
	return c, nil
}

// hold tells whether all conditions are true. One that is false wins over errors.
func (c *conditions) hold(ctx context.Context, d *dynamic, r *Request, form *resource.Kind, params any) (bool, error) {
	if c == nil {
		return true, nil
	}
	names, err := d.names(ctx, r, form)
	if err != nil {
		return false, err
	}
	names[expression.Params] = params
	return c.holdFor(ctx, names)
}

func (c *conditions) holdFor(ctx context.Context, names expression.Names) (bool, error) {
	if c == nil {
		return true, nil
	}
	budget := expression.ConditionBudget
	var problems []string
	for _, p := range c.programs {
		value, err, broke := p.Evaluate(ctx, names, &budget)
		switch {
		case broke != nil:
			return false, broke
		case err != nil:
			problems = append(problems, fmt.Sprintf("expression '%s' resulted in error: %v", p.Text, err))
		case value != types.True:
			return false, nil
		}
	}
	if len(problems) > 0 {
		return false, errors.New(aggregate(problems))
	}
	return true, nil
}

// names are what expressions see of a request in a form.
func (d *dynamic) names(ctx context.Context, r *Request, form *resource.Kind) (expression.Names, error) {
	object, err := r.fields(form, r.Object)
	if err != nil {
		return nil, err
	}
	old, err := r.fields(form, r.Old)
	if err != nil {
		return nil, err
	}
	q, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r.admissionRequest(form, ""))
	if err != nil {
		return nil, err
	}
	shapeRequest(q, r.admissionRequest(form, ""))
	namespace, err := d.namespaceFields(ctx, r)
	if err != nil {
		return nil, err
	}
	who, asked := userOf(r.User), bridge{d.authorizer}
	return expression.Names{
		expression.Object: value(object), expression.OldObject: value(old), expression.Request: q, expression.Namespace: value(namespace),
		expression.Authorizer:      library.NewAuthorizerVal(who, asked),
		expression.RequestResource: library.NewResourceAuthorizerVal(who, asked, &place{r, form}),
	}, nil
}

// value makes absent objects null.
func value(m map[string]any) any {
	if m == nil {
		return types.NullValue
	}
	return m
}

// fields is an object of the request as expressions see it; nil if there is none.
func (r *Request) fields(form *resource.Kind, o resource.Object) (map[string]any, error) {
	o, gvk, err := r.shown(form, o)
	if err != nil || o == nil {
		return nil, err
	}
	return fieldsOf(o, gvk)
}

func fieldsOf(o resource.Object, gvk schema.GroupVersionKind) (map[string]any, error) {
	var in any = o
	if options, ok := in.(*Options); ok {
		in = options.options
	}
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(in)
	if err != nil {
		return nil, err
	}
	m["apiVersion"], m["kind"] = gvk.GroupVersion().String(), gvk.Kind
	return m, nil
}

// shapeRequest leaves of a request what expressions may see.
func shapeRequest(m map[string]any, q *reviewv1.AdmissionRequest) {
	delete(m, "object")
	delete(m, "oldObject")
	delete(m, "uid")
	if q.Options.Raw == nil {
		m["options"] = nil
	}
}

// namespaceFields is the namespace of the object; nil for objects of none.
func (d *dynamic) namespaceFields(ctx context.Context, r *Request) (map[string]any, error) {
	if r.Namespace == "" || r.Kind == core.Namespaces.Kind {
		return nil, nil
	}
	o, err := d.reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return namespaceMap(core.Namespaces.Cast(o)), nil
}

// namespaceMap has what expressions see of a namespace. Times are text in it, as in Kubernetes.
func namespaceMap(n *corev1.Namespace) map[string]any {
	meta := map[string]any{"name": n.Name, "resourceVersion": n.ResourceVersion, "creationTimestamp": n.CreationTimestamp.UTC().Format(time.RFC3339)}
	put(meta, "generateName", n.GenerateName, n.GenerateName != "")
	put(meta, "generation", n.Generation, n.Generation != 0)
	put(meta, "labels", n.Labels, len(n.Labels) > 0)
	put(meta, "annotations", n.Annotations, len(n.Annotations) > 0)
	put(meta, "finalizers", n.Finalizers, len(n.Finalizers) > 0)
	if n.DeletionTimestamp != nil {
		meta["deletionTimestamp"] = n.DeletionTimestamp.UTC().Format(time.RFC3339)
	}
	if n.DeletionGracePeriodSeconds != nil {
		meta["deletionGracePeriodSeconds"] = *n.DeletionGracePeriodSeconds
	}
	var finalizers []string
	for _, f := range n.Spec.Finalizers {
		finalizers = append(finalizers, string(f))
	}
	spec, status := map[string]any{}, map[string]any{}
	put(spec, "finalizers", finalizers, len(finalizers) > 0)
	put(status, "phase", string(n.Status.Phase), n.Status.Phase != "")
	var all []any
	for _, c := range n.Status.Conditions {
		all = append(all, map[string]any{
			"type": string(c.Type), "status": string(c.Status), "reason": c.Reason, "message": c.Message,
			"lastTransitionTime": c.LastTransitionTime.UTC().Format(time.RFC3339),
		})
	}
	put(status, "conditions", all, len(all) > 0)
	return map[string]any{"metadata": meta, "spec": spec, "status": status}
}

func put(m map[string]any, key string, value any, present bool) {
	if present {
		m[key] = value
	}
}

// place names the object of a request for the authorizer.
type place struct {
	r    *Request
	form *resource.Kind
}

// GetName implements library.Resource.
func (p *place) GetName() string { return p.r.Name }

// GetNamespace implements library.Resource.
func (p *place) GetNamespace() string { return p.r.Namespace }

// GetResource implements library.Resource.
func (p *place) GetResource() schema.GroupVersionResource { return p.form.GroupVersionResource() }

// GetSubresource implements library.Resource.
func (p *place) GetSubresource() string { return p.r.Subresource }

func userOf(i *call.Identity) user.Info {
	return &user.DefaultInfo{Name: i.Name, UID: i.UID, Groups: i.Groups, Extra: i.Extra}
}

// bridge asks this server's authorizer in the name of the library.
type bridge struct{ authz.Authorizer }

// Authorize implements authorizer.Authorizer.
func (b bridge) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	q := &authz.Attributes{
		User: &call.Identity{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()}, Verb: a.GetVerb(),
	}
	if a.IsResourceRequest() {
		q.Group, q.Version, q.Resource, q.Subresource = a.GetAPIGroup(), a.GetAPIVersion(), a.GetResource(), a.GetSubresource()
		q.Namespace, q.Name = a.GetNamespace(), a.GetName()
	} else {
		q.Path = a.GetPath()
	}
	allowed, reason, err := b.Authorizer.Authorize(ctx, q)
	if allowed {
		return authorizer.DecisionAllow, reason, err
	}
	return authorizer.DecisionNoOpinion, reason, err
}
