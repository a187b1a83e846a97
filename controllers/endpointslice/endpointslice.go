// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package endpointslice writes the addresses behind each Service that has a selector: as EndpointSlices of at most 100
// endpoints, and as one Endpoints object of at most 1000 addresses for clients of the old form.
package endpointslice

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// manager is the value of the label that says who keeps a slice.
const manager = "endpointslice-controller.k8s.io"

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes", "pods", "services"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"services/finalizers"}, Verbs: []string{"update"}},
		{APIGroups: []string{""}, Resources: []string{"endpoints"}, Verbs: []string{"create", "delete", "get", "list", "update", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"endpoints/restricted"}, Verbs: []string{"create"}},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"create", "delete", "get", "list", "update", "watch"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	r := &reconciler{
		services: client.Of(c, core.Services), pods: client.Of(c, core.Pods), nodes: client.Of(c, core.Nodes),
		slices: client.Of(c, discovery.EndpointSlices), endpoints: client.Of(c, core.Endpoints),
	}
	return controller.Controller{
		Name: "endpointslice", For: core.Services.Kind, Needs: Needs(), Reconcile: r.reconcile,
		Watches: []controller.Watch{
			{Kind: core.Pods.Kind, Keys: r.servicesOf},
			{Kind: discovery.EndpointSlices.Kind, Keys: func(obj, old resource.Object) []client.Key {
				if obj == nil {
					obj = old
				}
				if l := obj.GetLabels(); l[discoveryv1.LabelManagedBy] == manager {
					return []client.Key{{Namespace: obj.GetNamespace(), Name: l[discoveryv1.LabelServiceName]}}
				}
				return nil
			}},
		},
	}
}

type reconciler struct {
	services  client.Resource[corev1.Service]
	pods      client.Resource[corev1.Pod]
	nodes     client.Resource[corev1.Node]
	slices    client.Resource[discoveryv1.EndpointSlice]
	endpoints client.Resource[corev1.Endpoints] //nolint:staticcheck // served still, and so kept
}

// servicesOf maps a pod to the Services that select it, or did.
func (r *reconciler) servicesOf(obj, old resource.Object) []client.Key {
	if obj != nil && old != nil && !matters(core.Pods.Cast(obj), core.Pods.Cast(old)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	view, err := r.services.View(ctx, client.ListOptions{})
	if err != nil {
		return nil // each Service is reconciled once when its view is complete
	}
	var keys []client.Key
	for _, o := range []resource.Object{obj, old} {
		if o == nil {
			continue
		}
		for s := range view.All(o.GetNamespace()) {
			if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(o.GetLabels())) {
				keys = append(keys, client.KeyOf(s))
			}
		}
	}
	return keys
}

// matters tells whether a change of a pod can change an endpoint.
func matters(p, old *corev1.Pod) bool {
	return p.Status.PodIP != old.Status.PodIP || p.Spec.NodeName != old.Spec.NodeName || ready(p) != ready(old) || p.Status.Phase != old.Status.Phase ||
		(p.DeletionTimestamp == nil) != (old.DeletionTimestamp == nil) || !equality.Semantic.DeepEqual(p.Labels, old.Labels)
}

func (r *reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	services, err := r.services.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	s := services.Get(key)
	if s == nil || s.DeletionTimestamp != nil {
		return 0, r.remove(ctx, key)
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return 0, nil
	}
	pods, err := r.selected(ctx, s)
	if err != nil {
		return 0, err
	}
	zones, err := r.zones(ctx)
	if err != nil {
		return 0, err
	}
	have, err := r.have(ctx, key)
	if err != nil {
		return 0, err
	}
	return 0, errors.Join(r.apply(ctx, Plan(s, pods, zones, have)), r.applyEndpoints(ctx, s, Endpoints(s, pods)))
}

func (r *reconciler) selected(ctx context.Context, s *corev1.Service) ([]*corev1.Pod, error) {
	view, err := r.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var all []*corev1.Pod
	for p := range view.All(s.Namespace) {
		if selector.Matches(labels.Set(p.Labels)) {
			all = append(all, p)
		}
	}
	return all, nil
}

// zones maps node names to zones.
func (r *reconciler) zones(ctx context.Context) (map[string]string, error) {
	view, err := r.nodes.View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	zones := map[string]string{}
	for n := range view.All("") {
		if zone := n.Labels[corev1.LabelTopologyZone]; zone != "" {
			zones[n.Name] = zone
		}
	}
	return zones, nil
}

func (r *reconciler) have(ctx context.Context, key client.Key) ([]*discoveryv1.EndpointSlice, error) {
	view, err := r.slices.View(ctx, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	var all []*discoveryv1.EndpointSlice
	for s := range view.All(key.Namespace) {
		if s.Labels[discoveryv1.LabelServiceName] == key.Name && s.Labels[discoveryv1.LabelManagedBy] == manager && s.DeletionTimestamp == nil {
			all = append(all, s)
		}
	}
	return all, nil
}

func (r *reconciler) apply(ctx context.Context, a Action) error {
	var problems []error
	for _, s := range a.Create {
		_, err := r.slices.Create(ctx, s)
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			problems = append(problems, err)
		}
	}
	for _, s := range a.Update {
		_, err := r.slices.Update(ctx, s)
		problems = append(problems, err)
	}
	for _, s := range a.Delete {
		if err := r.slices.Delete(ctx, client.KeyOf(s), nil); !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (r *reconciler) applyEndpoints(ctx context.Context, s *corev1.Service, subsets []corev1.EndpointSubset) error {
	view, err := r.endpoints.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	have := view.Get(client.KeyOf(s))
	want := newEndpoints(s, subsets)
	switch {
	case have == nil:
		_, err = r.endpoints.Create(ctx, want)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			err = nil
		}
	case !equality.Semantic.DeepEqual(have.Subsets, want.Subsets) || !equality.Semantic.DeepEqual(have.Labels, want.Labels):
		next := have.DeepCopy()
		next.Subsets, next.Labels = want.Subsets, want.Labels
		_, err = r.endpoints.Update(ctx, next)
	}
	return err
}

// remove deletes what belongs to a Service that is gone.
func (r *reconciler) remove(ctx context.Context, key client.Key) error {
	have, err := r.have(ctx, key)
	if err != nil {
		return err
	}
	problems := []error{r.apply(ctx, Action{Delete: have})}
	view, err := r.endpoints.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	if e := view.Get(key); e != nil && e.Labels[discoveryv1.LabelManagedBy] == "endpoint-controller" {
		if err := r.endpoints.Delete(ctx, key, &metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}
