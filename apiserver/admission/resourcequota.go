// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/api/core"
	"knarr.dev/api/quota"
	"knarr.dev/api/resource"
)

// reservationLifetime bounds how long a write that nobody took back and that never showed counts.
const reservationLifetime = 10 * time.Second

// resourceQuota refuses what would exceed a namespace's quotas.
//
// What is used is the sum over the objects that there are, or the quota's status where that says more, and the writes under
// way: between the check and the moment when the object shows in the cache, a reservation stands for it. Checks in one
// namespace happen one after another, so no two writes take the last piece.
func resourceQuota(reader Reader, now func() time.Time, limited []LimitedResource) Step {
	q := &quotas{reader: reader, now: now, limited: limited, namespaces: map[string]*quotaNamespace{}}
	return Step{Name: "ResourceQuota", Validate: q.check}
}

type quotas struct {
	reader  Reader
	now     func() time.Time
	limited []LimitedResource

	mu         sync.Mutex // guards the map; it holds only namespaces with reservations
	namespaces map[string]*quotaNamespace
}

type quotaNamespace struct {
	mu           sync.Mutex // after quotas.mu is released
	users        int        // guarded by quotas.mu: checks and reservations that hold this
	reservations []*reservation
}

// reservation is an object on its way to storage.
type reservation struct {
	kind   *resource.Kind
	object resource.Object
	until  time.Time
}

func (q *quotas) acquire(namespace string) *quotaNamespace {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.namespaces[namespace]
	if n == nil {
		n = &quotaNamespace{}
		q.namespaces[namespace] = n
	}
	n.users++
	return n
}

func (q *quotas) release(namespace string, n *quotaNamespace, times int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n.users -= times; n.users == 0 {
		delete(q.namespaces, namespace)
	}
}

func (q *quotas) check(ctx context.Context, r *Request) error {
	if r.Kind.Scope != resource.Namespaced || r.Object == nil || r.Kind.Virtual {
		return nil
	}
	if r.Verb != "create" && r.Verb != "update" || r.Subresource != "" && r.Subresource != "resize" {
		return nil
	}
	if r.Kind == core.Events.Kind || r.Kind.Group == "events.k8s.io" {
		return nil // they would make a full namespace fail to say so
	}
	var list []*corev1.ResourceQuota
	err := q.reader.List(ctx, core.ResourceQuotas.Kind, r.Namespace, func(o resource.Object) bool {
		list = append(list, core.ResourceQuotas.Cast(o))
		return true
	})
	if err != nil || len(list) == 0 && len(q.limited) == 0 {
		return err
	}
	wanted := quota.Usage(r.Kind, r.Object, q.now())
	more := wanted // in scopes that the object was in already
	if r.Verb == "update" && r.Old != nil {
		more = grown(quota.Usage(r.Kind, r.Old, q.now()), wanted)
	}
	if err := q.covered(r, list, wanted); err != nil || len(list) == 0 {
		return err
	}
	n := q.acquire(r.Namespace)
	n.mu.Lock()
	defer n.mu.Unlock()
	dropped := q.prune(ctx, r.Namespace, n)
	defer func() { q.release(r.Namespace, n, dropped+1) }()
	for _, limits := range list {
		takes := wanted
		if r.Old != nil && quota.InScope(limits, r.Old) {
			takes = more
		}
		if err := q.checkOne(ctx, r, n, limits, takes); err != nil {
			return err
		}
	}
	if r.Verb == "create" && !r.DryRun {
		q.reserve(r, n)
	}
	return nil
}

// prune forgets reservations whose objects are there by now, and returns how many.
func (q *quotas) prune(ctx context.Context, namespace string, n *quotaNamespace) int {
	before, now := len(n.reservations), q.now()
	n.reservations = slices.DeleteFunc(n.reservations, func(v *reservation) bool {
		if now.After(v.until) {
			return true
		}
		_, err := q.reader.Get(ctx, v.kind, namespace, v.object.GetName())
		return err == nil
	})
	return before - len(n.reservations)
}

// reserve keeps n until the reservation is taken back or pruned.
func (q *quotas) reserve(r *Request, n *quotaNamespace) {
	v := &reservation{kind: r.Kind, object: r.Object.DeepCopyObject().(resource.Object), until: q.now().Add(reservationLifetime)}
	n.reservations = append(n.reservations, v)
	q.acquire(r.Namespace)
	if r.Undo == nil {
		return
	}
	namespace := r.Namespace
	r.Undo(func() {
		n.mu.Lock()
		at := slices.Index(n.reservations, v)
		if at >= 0 {
			n.reservations = slices.Delete(n.reservations, at, at+1)
		}
		n.mu.Unlock()
		if at >= 0 {
			q.release(namespace, n, 1)
		}
	})
}

func (q *quotas) checkOne(ctx context.Context, r *Request, n *quotaNamespace, limits *corev1.ResourceQuota, wanted corev1.ResourceList) error {
	if !quota.InScope(limits, r.Object) {
		return nil
	}
	hard := limits.Spec.Hard
	if pod, ok := r.Object.(*corev1.Pod); ok && r.Verb == "create" {
		if missing := quota.Unspecified(pod, hard); missing != "" {
			return forbidden(r, fmt.Sprintf("failed quota: %s: must specify %s", limits.Name, missing))
		}
	}
	requested := corev1.ResourceList{}
	for name, quantity := range wanted {
		if _, limited := hard[name]; limited && quantity.Sign() > 0 {
			requested[name] = quantity
		}
	}
	if len(requested) == 0 {
		return nil
	}
	used, err := q.used(ctx, r, n, limits, requested)
	if err != nil {
		return err
	}
	var exceeded []corev1.ResourceName
	for _, name := range sorted(requested) {
		total, limit := requested[name], hard[name]
		total = total.DeepCopy()
		total.Add(used[name])
		if total.Cmp(limit) > 0 {
			exceeded = append(exceeded, name)
		}
	}
	if len(exceeded) == 0 {
		return nil
	}
	return forbidden(r, fmt.Sprintf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
		limits.Name, listText(requested, exceeded), listText(used, exceeded), listText(hard, exceeded)))
}

func listText(list corev1.ResourceList, names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		quantity := list[name]
		parts = append(parts, string(name)+"="+quantity.String())
	}
	return strings.Join(parts, ",")
}

// used sums what the namespace's objects of the request's kind and the reservations take of a quota.
func (q *quotas) used(ctx context.Context, r *Request, n *quotaNamespace, limits *corev1.ResourceQuota, names corev1.ResourceList) (corev1.ResourceList, error) {
	used := corev1.ResourceList{}
	for name := range names {
		limit := limits.Spec.Hard[name]
		used[name] = apiresource.Quantity{Format: limit.Format}
	}
	now := q.now()
	count := func(o resource.Object) {
		if !quota.InScope(limits, o) {
			return
		}
		for name, quantity := range quota.Usage(r.Kind, o, now) {
			if sum, ok := used[name]; ok {
				sum.Add(quantity)
				used[name] = sum
			}
		}
	}
	err := q.reader.List(ctx, r.Kind, r.Namespace, func(o resource.Object) bool {
		count(o)
		return true
	})
	if err != nil {
		return nil, err
	}
	for _, v := range n.reservations {
		if v.kind == r.Kind {
			count(v.object)
		}
	}
	for name, sum := range used {
		if told, ok := limits.Status.Used[name]; ok && told.Cmp(sum) > 0 {
			used[name] = told
		}
	}
	return used, nil
}

// grown returns what an update adds.
func grown(before, after corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, quantity := range after {
		delta := quantity.DeepCopy()
		delta.Sub(before[name])
		if delta.Sign() > 0 {
			out[name] = delta
		}
	}
	return out
}
