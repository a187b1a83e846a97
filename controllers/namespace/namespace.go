// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package namespace empties namespaces that are being deleted, and then lets them go.
//
// It deletes the objects of every namespaced kind, waits for those that take time or have finalizers, says in conditions
// what is left, and removes the finalizer "kubernetes" when nothing is.
package namespace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// poll is how soon a namespace is looked at again that is not empty yet.
const poll = 500 * time.Millisecond

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"delete", "get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"namespaces/finalize", "namespaces/status"}, Verbs: []string{"update"}},
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"delete", "deletecollection", "get", "list"}},
	}
}

// New returns the loop; kinds are all that are built in. Custom resources are looked up when a namespace is emptied.
func New(c *client.Client, kinds []*resource.Kind) controller.Controller {
	r := reconciler{client: c, namespaces: client.Of(c, core.Namespaces)}
	r.custom = slices.Contains(kinds, extension.CustomResourceDefinitions.Kind)
	for _, k := range kinds {
		if k.Scope == resource.Namespaced && !k.Virtual && k.Stored == nil {
			r.kinds = append(r.kinds, k)
		}
	}
	return controller.Controller{Name: "namespace", For: core.Namespaces.Kind, Needs: Needs(), Workers: 8, Reconcile: r.reconcile}
}

type reconciler struct {
	client     *client.Client
	namespaces client.Resource[corev1.Namespace]
	kinds      []*resource.Kind
	custom     bool // there are definitions of custom resources
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	view, err := r.namespaces.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	ns := view.Get(key)
	if ns == nil || ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0 {
		return 0, nil
	}
	left, problems := r.empty(ctx, ns.Name)
	if again, err := r.report(ctx, ns, left, problems); again || err != nil {
		return poll, err
	}
	if len(left) > 0 || len(problems) > 0 {
		return poll, nil
	}
	next := ns.DeepCopy()
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = r.client.Transport().Do(ctx, &call.Request{
		Verb: "update", Kind: core.Namespaces.Kind, Name: ns.Name, Subresource: "finalize", Object: next,
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return 0, err
}

// remaining is how many objects of a kind are left, and how many of those each finalizer holds.
type remaining struct {
	kind       *resource.Kind
	count      int
	finalizers map[string]int
}

// empty deletes what there is and returns what is left.
func (r reconciler) empty(ctx context.Context, namespace string) (left []remaining, problems []error) {
	kinds, err := r.allKinds(ctx)
	if err != nil {
		return nil, []error{fmt.Errorf("list custom resource definitions: %w", err)}
	}
	for _, k := range kinds {
		list, err := r.client.Transport().Do(ctx, &call.Request{Verb: "list", Kind: k, Namespace: namespace})
		if err != nil {
			problems = append(problems, fmt.Errorf("list %s: %w", k.GroupResource(), err))
			continue
		}
		if len(list.List.Items) == 0 {
			continue
		}
		undeleted := slices.ContainsFunc(list.List.Items, func(o resource.Object) bool { return o.GetDeletionTimestamp() == nil })
		if undeleted {
			background := metav1.DeletePropagationBackground
			_, err = r.client.Transport().Do(ctx, &call.Request{
				Verb: "deletecollection", Kind: k, Namespace: namespace, Delete: &metav1.DeleteOptions{PropagationPolicy: &background},
			})
			if err != nil {
				problems = append(problems, fmt.Errorf("delete %s: %w", k.GroupResource(), err))
			}
		}
		list, err = r.client.Transport().Do(ctx, &call.Request{Verb: "list", Kind: k, Namespace: namespace})
		if err != nil {
			problems = append(problems, fmt.Errorf("list %s: %w", k.GroupResource(), err))
			continue
		}
		if n := len(list.List.Items); n > 0 {
			one := remaining{kind: k, count: n, finalizers: map[string]int{}}
			for _, o := range list.List.Items {
				for _, f := range o.GetFinalizers() {
					one.finalizers[f]++
				}
			}
			left = append(left, one)
		}
	}
	return left, problems
}

// allKinds are the built-in kinds and the custom ones that there are now.
func (r reconciler) allKinds(ctx context.Context) ([]*resource.Kind, error) {
	if !r.custom {
		return r.kinds, nil
	}
	definitions, _, err := client.Of(r.client, extension.CustomResourceDefinitions).List(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	kinds := slices.Clone(r.kinds)
	for _, d := range definitions {
		if served := extension.Kinds(d); len(served) > 0 && served[0].Scope == resource.Namespaced {
			kinds = append(kinds, served[0])
		}
	}
	return kinds, nil
}

// report writes the conditions; true means that it changed them.
func (r reconciler) report(ctx context.Context, ns *corev1.Namespace, left []remaining, problems []error) (bool, error) {
	next := ns.DeepCopy()
	next.Status.Conditions = Conditions(ns.Status.Conditions, left, problems, metav1.Now())
	if equality.Semantic.DeepEqual(next.Status, ns.Status) || len(left)+len(problems) == 0 {
		return false, nil
	}
	_, err := r.namespaces.UpdateStatus(ctx, next)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	return true, err
}

// Conditions says what a namespace that is being deleted waits for, in Kubernetes' words.
func Conditions(have []corev1.NamespaceCondition, left []remaining, problems []error, now metav1.Time) []corev1.NamespaceCondition {
	var content, held []string
	finalizers := map[string]int{}
	for _, l := range left {
		name := l.kind.Resource
		if l.kind.Group != "" {
			name += "." + l.kind.Group
		} else {
			name += "."
		}
		content = append(content, fmt.Sprintf("%s has %d resource instances", name, l.count))
		for f, n := range l.finalizers {
			finalizers[f] += n
		}
	}
	for f, n := range finalizers {
		held = append(held, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(content)
	slices.Sort(held)
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.Error())
	}
	conditions := slices.Clone(have)
	set := func(kind corev1.NamespaceConditionType, bad bool, reason, message, goodReason, goodMessage string) {
		c := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, reason, message
		}
		i := slices.IndexFunc(conditions, func(o corev1.NamespaceCondition) bool { return o.Type == kind })
		switch {
		case i < 0:
			conditions = append(conditions, c)
		case conditions[i].Status != c.Status || conditions[i].Message != c.Message:
			if conditions[i].Status == c.Status {
				c.LastTransitionTime = conditions[i].LastTransitionTime
			}
			conditions[i] = c
		}
	}
	set(corev1.NamespaceDeletionContentFailure, len(problems) > 0, "ContentDeletionFailed",
		"Failed to delete all resource types, "+fmt.Sprint(len(problems))+" remaining: "+strings.Join(texts, ", "),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(left) > 0, "SomeResourcesRemain",
		"Some resources are remaining: "+strings.Join(content, ", "), "ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(held) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+strings.Join(held, ", "), "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return conditions
}
