// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package replicaset keeps the number of pods of each ReplicaSet at spec.replicas.
//
// It adopts pods that match the selector and have no owner, and lets go of those that match no more. Plan decides; the
// rest reads and acts.
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/apps"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"get", "list", "watch", "update"}},
		{APIGroups: []string{"apps"}, Resources: []string{"replicasets/status", "replicasets/finalizers"}, Verbs: []string{"update"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "get", "patch", "update"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := &reconciler{
		sets: client.Of(c, apps.ReplicaSets), pods: client.Of(c, core.Pods), now: time.Now,
		events: controller.NewRecorder(c, "replicaset-controller"),
	}
	return controller.Controller{
		Name: "replicaset", For: apps.ReplicaSets.Kind, Needs: Needs(),
		Watches:   []controller.Watch{{Kind: core.Pods.Kind, Keys: r.keysOf}},
		Reconcile: r.reconcile,
	}
}

type reconciler struct {
	sets   client.Resource[appsv1.ReplicaSet]
	pods   client.Resource[corev1.Pod]
	events *controller.Recorder
	now    func() time.Time

	mu   sync.Mutex
	view client.View[appsv1.ReplicaSet]
	ok   bool
}

// keysOf maps a pod to its owner or, if it has none, to the sets that may adopt it.
func (r *reconciler) keysOf(obj, old resource.Object) []client.Key {
	var keys []client.Key
	for _, o := range []resource.Object{obj, old} {
		if o == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
			if ref.Kind == "ReplicaSet" {
				keys = append(keys, client.Key{Namespace: o.GetNamespace(), Name: ref.Name})
			}
			continue
		}
		r.mu.Lock()
		view, ok := r.view, r.ok
		r.mu.Unlock()
		if !ok || len(o.GetLabels()) == 0 {
			continue // the sets themselves are reconciled once at the start
		}
		for s := range view.All(o.GetNamespace()) {
			if selector, err := metav1.LabelSelectorAsSelector(s.Spec.Selector); err == nil && selector.Matches(labels.Set(o.GetLabels())) {
				keys = append(keys, client.KeyOf(s))
			}
		}
	}
	return keys
}

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	sets, err := r.sets.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	r.view, r.ok = sets, true
	r.mu.Unlock()
	pods, err := r.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	set := sets.Get(key)
	if set == nil {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return 0, nil // validation does not let it in
	}
	mine, err := r.claim(ctx, set, selector, pods)
	if err != nil {
		return 0, err
	}
	var failure error
	if set.DeletionTimestamp == nil {
		failure = r.act(ctx, set, Plan(set, mine))
		if failure != nil && apierrors.HasStatusCause(failure, corev1.NamespaceTerminatingCause) {
			return 0, nil
		}
		mine = owned(set, pods)
	}
	status, again := Status(set, mine, failure, r.now())
	if !equality.Semantic.DeepEqual(status, set.Status) || set.Generation != set.Status.ObservedGeneration {
		next := set.DeepCopy()
		next.Status = status
		if _, err := r.sets.UpdateStatus(ctx, next); err != nil && !apierrors.IsNotFound(err) {
			return 0, errors.Join(failure, err)
		}
	}
	return again, failure
}

func owned(set *appsv1.ReplicaSet, pods client.View[corev1.Pod]) []*corev1.Pod {
	var mine []*corev1.Pod
	for p := range pods.All(set.Namespace) {
		if metav1.IsControlledBy(p, set) {
			mine = append(mine, p)
		}
	}
	return mine
}

// claim adopts and releases pods and returns those that belong to the set.
func (r *reconciler) claim(ctx context.Context, set *appsv1.ReplicaSet, selector labels.Selector, pods client.View[corev1.Pod]) ([]*corev1.Pod, error) {
	var mine []*corev1.Pod
	var problems []error
	for p := range pods.All(set.Namespace) {
		ref := metav1.GetControllerOfNoCopy(p)
		matches := selector.Matches(labels.Set(p.Labels))
		switch {
		case ref != nil && ref.UID == set.UID && (matches || p.DeletionTimestamp != nil || set.DeletionTimestamp != nil):
			mine = append(mine, p)
		case ref != nil && ref.UID == set.UID:
			problems = append(problems, r.setOwners(ctx, p, without(p.OwnerReferences, set)))
		case ref == nil && matches && p.DeletionTimestamp == nil && set.DeletionTimestamp == nil && active(p):
			fresh, err := r.sets.Get(ctx, client.KeyOf(set)) // is it still the same set, and not being deleted?
			if err != nil || fresh.UID != set.UID || fresh.DeletionTimestamp != nil {
				continue
			}
			owner := *metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
			if err := r.setOwners(ctx, p, append(without(p.OwnerReferences, set), owner)); err != nil {
				problems = append(problems, err)
				continue
			}
			mine = append(mine, p)
		}
	}
	return mine, errors.Join(problems...)
}

func without(refs []metav1.OwnerReference, set *appsv1.ReplicaSet) []metav1.OwnerReference {
	var left []metav1.OwnerReference
	for _, ref := range refs {
		if ref.UID != set.UID {
			left = append(left, ref)
		}
	}
	return left
}

func (r *reconciler) setOwners(ctx context.Context, p *corev1.Pod, refs []metav1.OwnerReference) error {
	next := p.DeepCopy()
	next.OwnerReferences = refs
	_, err := r.pods.Update(ctx, next)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// act creates or deletes pods. Creation starts with one and doubles, so that what cannot work fails once, not a thousand times.
func (r *reconciler) act(ctx context.Context, set *appsv1.ReplicaSet, a Action) error {
	for batch := 1; a.Create > 0; batch *= 2 {
		n := min(batch, a.Create)
		errs := parallel(n, func(int) error { return r.createPod(ctx, set) })
		if err := errors.Join(errs...); err != nil {
			return err
		}
		a.Create -= n
	}
	return errors.Join(parallel(len(a.Delete), func(i int) error { return r.deletePod(ctx, set, a.Delete[i]) })...)
}

func parallel(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}

func (r *reconciler) createPod(ctx context.Context, set *appsv1.ReplicaSet) error {
	t := set.Spec.Template.DeepCopy()
	p := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	p.Namespace, p.Name = set.Namespace, ""
	p.GenerateName = set.Name + "-"
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	made, err := r.pods.Create(ctx, p)
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.events.Warning(ctx, apps.ReplicaSets.Kind, set, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create pod: %w", err)
	}
	r.events.Normal(ctx, apps.ReplicaSets.Kind, set, "SuccessfulCreate", "Created pod: %s", made.Name)
	return nil
}

func (r *reconciler) deletePod(ctx context.Context, set *appsv1.ReplicaSet, p *corev1.Pod) error {
	err := r.pods.Delete(ctx, client.KeyOf(p), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		r.events.Warning(ctx, apps.ReplicaSets.Kind, set, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", p.Name, err)
	}
	r.events.Normal(ctx, apps.ReplicaSets.Kind, set, "SuccessfulDelete", "Deleted pod: %s", p.Name)
	return nil
}
