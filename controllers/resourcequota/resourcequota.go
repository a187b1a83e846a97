// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package resourcequota keeps the status of resource quotas: what is allowed, and what the objects of the namespace take of it.
// Admission counts from the status and adds what comes to it; the loop fills it in for a new quota, and lets go of what objects
// gave back. It does not count when something came: what admission has charged may not be stored yet.
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

// recheck is when a quota is counted once more after its status was wrong: what was charged and not stored yet was not seen.
const recheck = 5 * time.Second

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
	loop := controller.Controller{Name: "resourcequota-controller", For: core.ResourceQuotas.Kind, Needs: Needs(), Concerns: unobserved}
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

// unobserved tells whether a quota's limits are not those of its status.
func unobserved(obj, old resource.Object) bool {
	if obj == nil || old == nil {
		return obj != nil
	}
	q := core.ResourceQuotas.Cast(obj)
	return !equality.Semantic.DeepEqual(q.Spec.Hard, q.Status.Hard)
}

// concerned returns the quotas of the namespace in which an object went, or takes less of something now.
func (r reconciler) concerned(kind *resource.Kind) func(obj, old resource.Object) []client.Key {
	return func(obj, old resource.Object) []client.Key {
		if old == nil {
			return nil
		}
		quotas, err := r.quotas.View(context.Background(), client.ListOptions{})
		if err != nil {
			return nil // the loop has no view either, and starts again
		}
		var keys []client.Key
		var less, compared bool
		for q := range quotas.All(old.GetNamespace()) {
			if !quota.InScope(q, old) {
				continue
			}
			if obj != nil && quota.InScope(q, obj) {
				if !compared {
					less, compared = takesLess(kind, obj, old, time.Now()), true
				}
				if !less {
					continue
				}
			}
			keys = append(keys, client.KeyOf(q))
		}
		return keys
	}
}

// takesLess tells whether an object takes less of anything than before.
func takesLess(kind *resource.Kind, obj, old resource.Object, now time.Time) bool {
	after := quota.Usage(kind, obj, now)
	for name, before := range quota.Usage(kind, old, now) {
		if still := after[name]; still.Cmp(before) < 0 {
			return true
		}
	}
	return false
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
	return min(again, recheck), err
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
