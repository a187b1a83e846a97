// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package resourcequota keeps the status of resource quotas: what is allowed, and what the objects of the namespace take of it.
// Admission refuses by its own count; the status is what users see, and what lets go of deleted objects.
package resourcequota

import (
	"context"
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/extension"
	"knarr.dev/api/quota"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/controller"
)

// recount is how often a quota is counted without a change: a pod whose node does not answer stops counting by time alone.
const recount = 5 * time.Minute

// recountCustom is how often quotas of custom resources are counted; changes of those are not watched.
const recountCustom = 2 * time.Second

// Needs are the rules of the loop's role: everything can be limited, so everything is counted.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"resourcequotas/status"}, Verbs: []string{"update"}},
	}
}

// New returns the loop over the kinds that are served.
func New(c *client.Client, kinds []*resource.Kind) controller.Controller {
	r := reconciler{client: c, quotas: client.Of(c, core.ResourceQuotas), definitions: client.Of(c, extension.CustomResourceDefinitions)}
	loop := controller.Controller{Name: "resourcequota-controller", For: core.ResourceQuotas.Kind, Needs: Needs(), Reconcile: r.reconcile}
	for _, k := range kinds {
		if k.Scope != resource.Namespaced || k.Virtual || k.Stored != nil || k == core.Events.Kind || k == core.ResourceQuotas.Kind {
			continue
		}
		r.kinds = append(r.kinds, k)
	}
	r.kinds = append(r.kinds, core.ResourceQuotas.Kind) // quotas can be counted too
	loop.Reconcile = r.reconcile
	for _, k := range r.kinds {
		loop.Watches = append(loop.Watches, controller.Watch{Kind: k, Keys: r.concerned(k)})
	}
	return loop
}

type reconciler struct {
	client *client.Client
	quotas client.Resource[corev1.ResourceQuota]
	kinds  []*resource.Kind

	definitions client.Resource[apiextensionsv1.CustomResourceDefinition]
}

// concerned returns the quotas of the namespace in which an object came, went, or takes something else now.
func (r reconciler) concerned(kind *resource.Kind) func(obj, old resource.Object) []client.Key {
	return func(obj, old resource.Object) []client.Key {
		quotas, err := r.quotas.View(context.Background(), client.ListOptions{})
		if err != nil {
			return nil // the loop has no view either, and starts again
		}
		some := obj
		if some == nil {
			some = old
		}
		var keys []client.Key
		same, compared := false, false
		for q := range quotas.All(some.GetNamespace()) {
			if obj != nil && old != nil && quota.InScope(q, obj) == quota.InScope(q, old) {
				if !compared {
					now := time.Now()
					same, compared = equality.Semantic.DeepEqual(quota.Usage(kind, obj, now), quota.Usage(kind, old, now)), true
				}
				if same {
					continue
				}
			}
			keys = append(keys, client.KeyOf(q))
		}
		return keys
	}
}

func (r reconciler) reconcile(ctx context.Context, key client.Key) (time.Duration, error) {
	quotas, err := r.quotas.View(ctx, client.ListOptions{})
	if err != nil {
		return 0, err
	}
	q := quotas.Get(key)
	if q == nil || q.DeletionTimestamp != nil {
		return 0, nil
	}
	objects := map[*resource.Kind]iter.Seq[resource.Object]{}
	for _, k := range r.kinds {
		view, err := r.client.Transport().View(ctx, &call.Request{Kind: k})
		if err != nil {
			return 0, err
		}
		objects[k] = func(yield func(resource.Object) bool) { view.List(key.Namespace, yield) }
	}
	again := recount
	for name := range q.Spec.Hard {
		if k := r.custom(ctx, name); k != nil {
			view, err := r.client.Transport().View(ctx, &call.Request{Kind: k})
			if err != nil {
				return 0, err
			}
			objects[k] = func(yield func(resource.Object) bool) { view.List(key.Namespace, yield) }
			again = recountCustom
		}
	}
	want := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: quota.Sum(q, objects, time.Now())}
	if equality.Semantic.DeepEqual(want, q.Status) {
		return again, nil
	}
	next := q.DeepCopy()
	next.Status = *want.DeepCopy()
	_, err = r.quotas.UpdateStatus(ctx, next)
	return again, err
}

// custom is the kind of custom resources that a quota counts under a name: "count/" and the name of their definition; nil if
// there is none.
func (r reconciler) custom(ctx context.Context, name corev1.ResourceName) *resource.Kind {
	definition, counts := strings.CutPrefix(string(name), "count/")
	if !counts || !strings.Contains(definition, ".") {
		return nil
	}
	definitions, err := r.definitions.View(ctx, client.ListOptions{})
	if err != nil {
		return nil // the server ends
	}
	d := definitions.Get(client.Key{Name: definition})
	if d == nil {
		return nil
	}
	if kinds := extension.Kinds(d); len(kinds) > 0 && kinds[0].Scope == resource.Namespaced {
		return kinds[0]
	}
	return nil
}
