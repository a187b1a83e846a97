// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package controllerruntime

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

const finalizer = "web.example.com/goodbye"

// reconciler makes a Deployment and a ConfigMap of a Site, and says goodbye in another ConfigMap.
type reconciler struct {
	client.Client
	recorder events.EventRecorder
}

// Reconcile implements reconcile.Reconciler.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var site Site
	if err := r.Get(ctx, request.NamespacedName, &site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !site.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.finish(ctx, &site)
	}
	if controllerutil.AddFinalizer(&site, finalizer) {
		return ctrl.Result{}, r.Update(ctx, &site)
	}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: site.Name, Namespace: site.Namespace}}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, settings, func() error {
		settings.Data = map[string]string{"owner": site.Spec.Owner}
		return controllerutil.SetOwnerReference(&site, settings, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, err
	}
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: site.Name, Namespace: site.Namespace}}
	done, err := controllerutil.CreateOrPatch(ctx, r.Client, web, func() error {
		labels, grace := map[string]string{"site": site.Name}, int64(1)
		web.Spec.Replicas, web.Spec.Selector = site.Spec.Replicas, &metav1.LabelSelector{MatchLabels: labels}
		web.Spec.Template.Labels, web.Spec.Template.Spec.TerminationGracePeriodSeconds = labels, &grace
		if len(web.Spec.Template.Spec.Containers) == 0 {
			web.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Image: "knarr.dev/web:1"}}
		}
		return controllerutil.SetControllerReference(&site, web, r.Scheme())
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	if done == controllerutil.OperationResultCreated {
		r.recorder.Eventf(&site, web, corev1.EventTypeNormal, "Created", "Deploy", "created deployment %s", web.Name)
	}
	return ctrl.Result{}, r.report(ctx, &site, web)
}

func (r *reconciler) report(ctx context.Context, site *Site, web *appsv1.Deployment) error {
	status := metav1.ConditionFalse
	if web.Status.ReadyReplicas == *site.Spec.Replicas {
		status = metav1.ConditionTrue
	}
	changed := meta.SetStatusCondition(&site.Status.Conditions, metav1.Condition{
		Type: "Ready", Status: status, Reason: "Counted", Message: fmt.Sprintf("%d ready", web.Status.ReadyReplicas), ObservedGeneration: site.Generation,
	})
	if !changed && site.Status.Ready == web.Status.ReadyReplicas {
		return nil
	}
	site.Status.Ready = web.Status.ReadyReplicas
	return r.Status().Update(ctx, site)
}

func (r *reconciler) finish(ctx context.Context, site *Site) error {
	goodbye := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "goodbye-" + site.Name, Namespace: site.Namespace}}
	if err := r.Create(ctx, goodbye); client.IgnoreAlreadyExists(err) != nil {
		return err
	}
	if controllerutil.RemoveFinalizer(site, finalizer) {
		return r.Update(ctx, site)
	}
	return nil
}

// rules are the webhooks of a Site.
type rules struct{}

// Default implements admission.Defaulter.
func (rules) Default(_ context.Context, s *Site) error {
	if s.Spec.Replicas == nil {
		n := int32(2)
		s.Spec.Replicas = &n
	}
	metav1.SetMetaDataLabel(&s.ObjectMeta, "owner", s.Spec.Owner)
	return nil
}

// ValidateCreate implements admission.Validator.
func (rules) ValidateCreate(_ context.Context, s *Site) (admission.Warnings, error) {
	if s.Spec.Owner == "nobody" {
		return nil, fmt.Errorf("%s needs an owner", s.Name)
	}
	return admission.Warnings{"sites cost money"}, nil
}

// ValidateUpdate implements admission.Validator.
func (rules) ValidateUpdate(_ context.Context, old, s *Site) (admission.Warnings, error) {
	if *s.Spec.Replicas > *old.Spec.Replicas+3 {
		return nil, fmt.Errorf("grow slowly: %d to %d", *old.Spec.Replicas, *s.Spec.Replicas)
	}
	return nil, nil
}

// ValidateDelete implements admission.Validator.
func (rules) ValidateDelete(_ context.Context, s *Site) (admission.Warnings, error) {
	if s.Annotations["keep"] != "" {
		return nil, fmt.Errorf("%s is to be kept", s.Name)
	}
	return nil, nil
}
