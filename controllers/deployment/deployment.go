// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deployment rolls out pods in versions: one ReplicaSet a version, scaled up and down until only the newest is left.
//
// plan.go decides sizes, revision.go names versions, status.go says how far it is; this file reads and acts.
package deployment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
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

// Annotations and labels of Kubernetes.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
	hashLabel          = appsv1.DefaultDeploymentUniqueLabelKey
)

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get", "list", "watch", "update"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments/status", "deployments/finalizers"}, Verbs: []string{"update"}},
		{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "update", "watch"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "get", "patch", "update"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := &reconciler{
		deployments: client.Of(c, apps.Deployments), sets: client.Of(c, apps.ReplicaSets), pods: client.Of(c, core.Pods),
		events: controller.NewRecorder(c, "deployment-controller"), now: time.Now,
	}
	return controller.Controller{
		Name: "deployment", For: apps.Deployments.Kind, Needs: Needs(),
		Watches: []controller.Watch{
			controller.Owned(apps.ReplicaSets.Kind, apps.Deployments.Kind),
			{Kind: core.Pods.Kind, Keys: r.podGone},
		},
		Reconcile: r.reconcile,
	}
}

type reconciler struct {
	deployments client.Resource[appsv1.Deployment]
	sets        client.Resource[appsv1.ReplicaSet]
	pods        client.Resource[corev1.Pod]
	events      *controller.Recorder
	now         func() time.Time
}

// podGone wakes Recreate deployments, which wait for the last old pod; the ReplicaSet's owner is found by name.
func (r *reconciler) podGone(obj, old resource.Object) []client.Key {
	if obj != nil {
		return nil
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	name := ref.Name
	if hash := old.GetLabels()[hashLabel]; hash != "" && len(name) > len(hash)+1 {
		return []client.Key{{Namespace: old.GetNamespace(), Name: name[:len(name)-len(hash)-1]}}
	}
	return nil
}

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	deployments, err := r.deployments.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	d := deployments.Get(key)
	if d == nil {
		return 0, nil
	}
	sets, err := r.owned(ctx, d)
	if err != nil {
		return 0, err
	}
	v := sort(d, sets)
	if d.DeletionTimestamp != nil {
		return r.writeStatus(ctx, d, v)
	}
	switch {
	case d.Spec.Paused, resized(d, v):
		if v.current, err = r.ensureRevision(ctx, d, v, false); err != nil {
			return 0, err
		}
		err = r.scale(ctx, d, Resize(d, v.all()))
		if err == nil && d.Spec.Paused {
			err = r.forget(ctx, d, v)
		}
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		err = r.recreate(ctx, d, &v)
	default:
		if v.current, err = r.ensureRevision(ctx, d, v, true); err == nil {
			err = r.scale(ctx, d, Roll(d, v.current, v.old))
		}
	}
	if err != nil {
		return 0, err
	}
	if !d.Spec.Paused && complete(d) {
		if err := r.forget(ctx, d, v); err != nil {
			return 0, err
		}
	}
	sets, err = r.owned(ctx, d)
	if err != nil {
		return 0, err
	}
	if fresh := deployments.Get(key); fresh != nil {
		d = fresh
	}
	return r.writeStatus(ctx, d, sort(d, sets))
}

// owned returns the ReplicaSets of a deployment, adopting those that match and have no owner.
func (r *reconciler) owned(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	view, err := r.sets.View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, err
	}
	var mine []*appsv1.ReplicaSet
	for s := range view.All(d.Namespace) {
		ref := metav1.GetControllerOfNoCopy(s)
		switch {
		case ref != nil && ref.UID == d.UID:
			mine = append(mine, s)
		case ref == nil && d.DeletionTimestamp == nil && s.DeletionTimestamp == nil && !selector.Empty() && selector.Matches(labels.Set(s.Labels)):
			next := s.DeepCopy()
			next.OwnerReferences = append(next.OwnerReferences, *metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment")))
			adopted, err := r.sets.Update(ctx, next)
			if err != nil {
				return nil, err
			}
			mine = append(mine, adopted)
		}
	}
	return mine, nil
}

// recreate ends all old pods before it starts new ones.
func (r *reconciler) recreate(ctx context.Context, d *appsv1.Deployment, v *versions) (err error) {
	if v.current, err = r.ensureRevision(ctx, d, *v, false); err != nil {
		return err
	}
	var down []Size
	for _, s := range v.old {
		if *s.Spec.Replicas > 0 {
			down = append(down, Size{Set: s, Replicas: 0})
		}
	}
	if len(down) > 0 {
		return r.scale(ctx, d, down)
	}
	pods, err := r.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for _, s := range v.old {
		old[string(s.UID)] = true
	}
	for p := range pods.All(d.Namespace) {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref != nil && old[string(ref.UID)] && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return nil // podGone comes back
		}
	}
	if v.current, err = r.ensureRevision(ctx, d, *v, true); err != nil {
		return err
	}
	return r.scale(ctx, d, []Size{{Set: v.current, Replicas: *d.Spec.Replicas}})
}

// ensureRevision returns the ReplicaSet of the present template with its revision up to date; it makes it if create.
func (r *reconciler) ensureRevision(ctx context.Context, d *appsv1.Deployment, v versions, create bool) (*appsv1.ReplicaSet, error) {
	revision := strconv.FormatInt(maxRevision(v.old)+1, 10)
	s := v.current
	switch {
	case s == nil && !create:
		return nil, nil
	case s == nil:
		var err error
		if s, err = r.createSet(ctx, d, v, revision); err != nil {
			return nil, err
		}
	default:
		next := s.DeepCopy()
		annotate(d, next, revision)
		next.Spec.MinReadySeconds = d.Spec.MinReadySeconds
		if !equality.Semantic.DeepEqual(next, s) {
			updated, err := r.sets.Update(ctx, next)
			if err != nil {
				return nil, err
			}
			s = updated
		}
	}
	if d.Annotations[revisionAnnotation] == s.Annotations[revisionAnnotation] {
		return s, nil
	}
	next := d.DeepCopy()
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[revisionAnnotation] = s.Annotations[revisionAnnotation]
	_, err := r.deployments.UpdateStatus(ctx, next) // which leaves the generation as it is
	return s, err
}

func (r *reconciler) createSet(ctx context.Context, d *appsv1.Deployment, v versions, revision string) (*appsv1.ReplicaSet, error) {
	hash := Hash(&d.Spec.Template, d.Status.CollisionCount)
	t := d.Spec.Template.DeepCopy()
	t.Labels = with(t.Labels, hashLabel, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hashLabel, hash)
	replicas := NewSize(d, nil, v.old)
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		replicas = *d.Spec.Replicas
	}
	s := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: maps.Clone(t.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *t},
	}
	annotate(d, s, revision)
	made, err := r.sets.Create(ctx, s)
	if apierrors.IsAlreadyExists(err) {
		return r.collided(ctx, d, s, err)
	}
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.events.Warning(ctx, apps.Deployments.Kind, d, "ReplicaSetCreateError", "Failed to create new replica set %q: %v", d.Name+"-"+hash, err)
		}
		return nil, err
	}
	if replicas > 0 {
		r.events.Normal(ctx, apps.Deployments.Kind, d, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, replicas)
	}
	return made, nil
}

// collided handles a name that is taken: by our own set that the view does not show yet, or by another with the same hash.
func (r *reconciler) collided(ctx context.Context, d *appsv1.Deployment, s *appsv1.ReplicaSet, cause error) (*appsv1.ReplicaSet, error) {
	there, err := r.sets.Get(ctx, client.Key{Namespace: d.Namespace, Name: d.Name + "-" + Hash(&d.Spec.Template, d.Status.CollisionCount)})
	if err != nil {
		return nil, err
	}
	if metav1.IsControlledBy(there, d) && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
		return there, nil
	}
	next := d.DeepCopy()
	count := int32(1)
	if d.Status.CollisionCount != nil {
		count += *d.Status.CollisionCount
	}
	next.Status.CollisionCount = &count
	if _, err := r.deployments.UpdateStatus(ctx, next); err != nil {
		return nil, err
	}
	return nil, cause // the next run has another hash
}

// scale brings ReplicaSets to sizes.
func (r *reconciler) scale(ctx context.Context, d *appsv1.Deployment, sizes []Size) error {
	var problems []error
	for _, size := range sizes {
		s := size.Set
		next := s.DeepCopy()
		next.Spec.Replicas = &size.Replicas
		setSizes(d, next)
		if equality.Semantic.DeepEqual(next, s) {
			continue
		}
		if _, err := r.sets.Update(ctx, next); err != nil {
			problems = append(problems, fmt.Errorf("scale replica set %s: %w", s.Name, err))
			continue
		}
		if from := *s.Spec.Replicas; from != size.Replicas {
			direction := "up"
			if size.Replicas < from {
				direction = "down"
			}
			r.events.Normal(ctx, apps.Deployments.Kind, d, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, s.Name, from, size.Replicas)
		}
	}
	return errors.Join(problems...)
}

// forget deletes old versions beyond the history limit.
func (r *reconciler) forget(ctx context.Context, d *appsv1.Deployment, v versions) error {
	var problems []error
	for _, s := range Forgotten(d, v.old) {
		err := r.sets.Delete(ctx, client.KeyOf(s), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (r *reconciler) writeStatus(ctx context.Context, d *appsv1.Deployment, v versions) (time.Duration, error) {
	status, again := Status(d, v, r.now())
	if equality.Semantic.DeepEqual(status, d.Status) {
		return again, nil
	}
	next := d.DeepCopy()
	next.Status = status
	_, err := r.deployments.UpdateStatus(ctx, next)
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return again, err
}
