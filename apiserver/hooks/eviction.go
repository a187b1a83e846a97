// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/policy"
	"knarr.dev/api/resource"
)

// Bounds of evictions: tries to book one on a budget, evictions that the loop of budgets has not confirmed yet, and seconds until a
// budget that the loop has not seen yet is worth another try.
const (
	evictionAttempts = 20
	disruptedMax     = 2000
	evictionRetry    = 10
)

// Eviction returns the hook of pods/eviction: a deletion that budgets may refuse.
func Eviction(store Store) Hook {
	return Hook{Kind: core.Pods.Kind, Subresource: "eviction", Create: func(ctx context.Context, _ *call.Identity, r *call.Request) (resource.Object, error) {
		eviction, ok := r.Object.(*policyv1.Eviction)
		if !ok {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", r.Object))
		}
		if eviction.Name != r.Name {
			return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
		}
		options := eviction.DeleteOptions.DeepCopy()
		if options == nil {
			options = &metav1.DeleteOptions{}
		}
		e := evicting{store: store, namespace: r.Namespace, name: r.Name, dryRun: r.DryRun || len(options.DryRun) > 0, options: options}
		var err error
		for range evictionAttempts {
			if err = e.try(ctx); !apierrors.IsConflict(err) || e.final {
				break
			}
		}
		return nil, err
	}}
}

// evicting is one eviction on its way.
type evicting struct {
	store           Store
	namespace, name string
	dryRun          bool
	options         *metav1.DeleteOptions
	// final says that a conflict is the client's: a precondition of its own does not hold.
	final bool
}

// try decides by the present state of pod and budgets; a conflict means that they changed meanwhile.
func (e *evicting) try(ctx context.Context) error {
	obj, err := e.store.Get(ctx, core.Pods.Kind, e.namespace, e.name)
	if err != nil {
		return err
	}
	pod := core.Pods.Cast(obj)
	if unbudgeted(pod) {
		return e.delete(ctx, pod, e.bound(pod))
	}
	budget, err := e.budget(ctx, pod)
	if err != nil {
		return err
	}
	switch {
	case budget == nil:
		return e.delete(ctx, pod, e.options)
	case mayGoUnready(pod, budget):
		return e.delete(ctx, pod, e.bound(pod))
	}
	if err := e.book(ctx, budget); err != nil {
		return err
	}
	return e.delete(ctx, pod, e.options)
}

// delete deletes the pod, of which it says before that it was disrupted. A conflict about preconditions of the client's own is the
// last word.
func (e *evicting) delete(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	e.final = options == e.options
	options = options.DeepCopy()
	if !e.dryRun && holds(options.Preconditions, pod) {
		version, err := e.disrupt(ctx, options.Preconditions)
		if err != nil {
			e.final = false
			return err
		}
		if p := options.Preconditions; p != nil && p.ResourceVersion != nil {
			p.ResourceVersion = &version
		}
	}
	_, err := e.store.Do(ctx, &call.Request{
		Verb: "delete", Kind: core.Pods.Kind, Namespace: e.namespace, Name: e.name, DryRun: e.dryRun, Delete: options,
	})
	return err
}

func holds(p *metav1.Preconditions, pod *corev1.Pod) bool {
	return p == nil || (p.UID == nil || *p.UID == pod.UID) && (p.ResourceVersion == nil || *p.ResourceVersion == pod.ResourceVersion)
}

// disrupt gives the pod the condition DisruptionTarget and returns its version then.
//
// See https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions.
func (e *evicting) disrupt(ctx context.Context, p *metav1.Preconditions) (version string, err error) {
	o, err := e.store.Update(ctx, core.Pods.Kind, e.namespace, e.name, false, func(o resource.Object) error {
		pod := core.Pods.Cast(o)
		if !holds(p, pod) {
			return apierrors.NewConflict(core.Pods.Kind.GroupResource(), e.name, errors.New("the pod changed while it was evicted"))
		}
		condition := corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		}
		for i := range pod.Status.Conditions {
			old := &pod.Status.Conditions[i]
			if old.Type != condition.Type {
				continue
			}
			if old.Status == condition.Status {
				condition.LastTransitionTime = old.LastTransitionTime
			}
			old.Status, old.LastTransitionTime, old.Reason, old.Message = condition.Status, condition.LastTransitionTime, condition.Reason, condition.Message
			return nil
		}
		pod.Status.Conditions = append(pod.Status.Conditions, condition)
		return nil
	})
	if err != nil {
		return "", err
	}
	return o.GetResourceVersion(), nil
}

// bound are the options with the precondition that the pod is as it was when it was found to need no budget.
func (e *evicting) bound(pod *corev1.Pod) *metav1.DeleteOptions {
	if p := e.options.Preconditions; p != nil && p.ResourceVersion != nil {
		return e.options
	}
	out := e.options.DeepCopy()
	if out.Preconditions == nil {
		out.Preconditions = &metav1.Preconditions{}
	} else if out.Preconditions.UID != nil && *out.Preconditions.UID != pod.UID {
		return e.options
	}
	uid, version := types.UID(pod.UID), pod.ResourceVersion
	out.Preconditions.UID, out.Preconditions.ResourceVersion = &uid, &version
	return out
}

// unbudgeted says that a pod does not run, so that its end disrupts nothing.
func unbudgeted(pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed, corev1.PodPending:
		return true
	}
	return pod.DeletionTimestamp != nil
}

// budget is the budget that a pod counts in, nil if there is none.
func (e *evicting) budget(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	var found []*policyv1.PodDisruptionBudget
	err := e.store.List(ctx, policy.PodDisruptionBudgets.Kind, e.namespace, func(o resource.Object) bool {
		b := policy.PodDisruptionBudgets.Cast(o)
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
			found = append(found, b)
		}
		return true
	})
	switch {
	case err != nil || len(found) == 0:
		return nil, err
	case len(found) > 1:
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	return found[0], nil
}

// mayGoUnready says that a pod is not ready and its budget does not protect such pods, at least not now.
func mayGoUnready(pod *corev1.Pod, b *policyv1.PodDisruptionBudget) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// book takes one disruption off a budget, or says why there is none to take.
func (e *evicting) book(ctx context.Context, b *policyv1.PodDisruptionBudget) error {
	forbidden := func(text string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: "policy", Resource: "poddisruptionbudget"}, b.Name, errors.New(text))
	}
	switch s := &b.Status; {
	case s.ObservedGeneration < b.Generation:
		err := tooManyEvictions(fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
		err.ErrStatus.Details.RetryAfterSeconds = evictionRetry
		return err
	case s.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > disruptedMax:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed == 0 && s.CurrentHealthy <= s.DesiredHealthy:
		return tooManyEvictions(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, s.DesiredHealthy, s.CurrentHealthy))
	case s.DisruptionsAllowed == 0:
		return tooManyEvictions(fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name))
	}
	if e.dryRun {
		return nil
	}
	b = b.DeepCopy()
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
			ObservedGeneration: b.Status.ObservedGeneration, LastTransitionTime: metav1.Now().Rfc3339Copy(),
		})
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[e.name] = metav1.Now().Rfc3339Copy()
	_, err := e.store.Do(ctx, &call.Request{
		Verb: "update", Kind: policy.PodDisruptionBudgets.Kind, Namespace: e.namespace, Name: b.Name, Subresource: "status", Object: b,
	})
	return err
}

func tooManyEvictions(why string) *apierrors.StatusError {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: why})
	return err
}
