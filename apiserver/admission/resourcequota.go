// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/devices"
	"knarr.dev/api/quota"
	"knarr.dev/api/resource"
)

const (
	// quotaAttempts bounds how often one quota's status is written for one batch, if others write it too.
	quotaAttempts = 10
	// quotaPatience bounds the writes of one batch.
	quotaPatience = 10 * time.Second
)

// resourceQuota refuses what would exceed a namespace's quotas.
//
// What is allowed and what is used is what the status of a quota says: each write that takes something is added to its
// status.used before the object is stored, on condition that nobody else wrote the quota meanwhile. A write that fails later stays
// charged; the quota loop counts anew. Checks of one namespace that come together are charged together, with one write to
// each quota.
func resourceQuota(reader Reader, writer Writer, now func() time.Time, limited []LimitedResource) Step {
	q := &quotas{reader: reader, writer: writer, now: now, limited: limited, queues: map[string]*quotaQueue{}}
	return Step{Name: "ResourceQuota", Validate: q.check}
}

type quotas struct {
	reader  Reader
	writer  Writer
	now     func() time.Time
	limited []LimitedResource

	mu     sync.Mutex             // guards what follows, and the queues
	queues map[string]*quotaQueue // namespaces in which checks are under way
}

// quotaQueue is the checks of a namespace that wait for those under way. One of those leads: it decides for all of its batch.
type quotaQueue struct{ waiting []*quotaCheck }

// quotaCheck is one request before the quotas of its namespace.
type quotaCheck struct {
	request *Request
	// wanted is what the object takes; more is what it takes in addition, of quotas in whose scopes it was before.
	wanted, more corev1.ResourceList
	// turn says that the check is decided (false), or that it leads the next batch (true).
	turn chan bool
	err  error
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
	list, err := q.list(ctx, r.Namespace)
	if err != nil || len(list) == 0 && len(q.limited) == 0 {
		return err
	}
	c := &quotaCheck{request: r, wanted: quota.Usage(r.Kind, r.Object, q.now()), turn: make(chan bool, 1)}
	c.more = c.wanted
	if r.Verb == "update" && r.Old != nil {
		c.more = grown(quota.Usage(r.Kind, r.Old, q.now()), c.wanted)
	}
	if err := q.covered(r, list, c.wanted); err != nil || !slices.ContainsFunc(list, c.concerns) {
		return err
	}
	if !q.join(c) && !<-c.turn {
		return c.err
	}
	q.lead(context.WithoutCancel(ctx), c)
	return c.err
}

func (q *quotas) list(ctx context.Context, namespace string) (list []*corev1.ResourceQuota, err error) {
	err = q.reader.List(ctx, core.ResourceQuotas.Kind, namespace, func(o resource.Object) bool {
		list = append(list, core.ResourceQuotas.Cast(o))
		return true
	})
	return list, err
}

// takes is what the request takes of a quota.
func (c *quotaCheck) takes(limits *corev1.ResourceQuota) corev1.ResourceList {
	if c.request.Old != nil && quota.InScope(limits, c.request.Old) {
		return c.more
	}
	return c.wanted
}

// concerns tells whether a quota has a say in the request.
func (c *quotaCheck) concerns(limits *corev1.ResourceQuota) bool {
	r := c.request
	return quota.InScope(limits, r.Object) && len(quota.Names(r.Kind, limits.Status.Hard)) > 0 &&
		(r.Verb == "create" || growing(r) || len(c.takes(limits)) > 0)
}

// growing tells whether an update is of what may take more later: those need a quota whose status is known, even if they take nothing more.
func growing(r *Request) bool {
	switch r.Kind {
	case core.Services.Kind, core.PersistentVolumeClaims.Kind, devices.ResourceClaims.Kind:
		return true
	}
	return r.Subresource == "resize"
}

// join lets a check wait for its turn; true means that it leads at once.
func (q *quotas) join(c *quotaCheck) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if queue := q.queues[c.request.Namespace]; queue != nil {
		queue.waiting = append(queue.waiting, c)
		return false
	}
	q.queues[c.request.Namespace] = &quotaQueue{}
	return true
}

// lead decides a check and those that wait, and hands over to the first that came meanwhile.
func (q *quotas) lead(ctx context.Context, c *quotaCheck) {
	namespace := c.request.Namespace
	q.mu.Lock()
	queue := q.queues[namespace]
	followers := queue.waiting
	queue.waiting = nil
	q.mu.Unlock()
	defer func() {
		for _, f := range followers {
			f.turn <- false
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(queue.waiting) == 0 {
			delete(q.queues, namespace)
			return
		}
		next := queue.waiting[0]
		queue.waiting = queue.waiting[1:]
		next.turn <- true
	}()
	ctx, cancel := context.WithTimeout(ctx, quotaPatience)
	defer cancel()
	q.decide(ctx, append([]*quotaCheck{c}, followers...))
}

// ledger is a quota while a batch is decided.
type ledger struct {
	quota *corev1.ResourceQuota // shared
	// used is the quota's status.used with what is charged.
	used    corev1.ResourceList
	charged []*quotaCheck
}

// decide lets all quotas judge a batch, one request after the other, and then writes what was charged.
func (q *quotas) decide(ctx context.Context, batch []*quotaCheck) {
	list, err := q.list(ctx, batch[0].request.Namespace)
	if err != nil {
		for _, c := range batch {
			c.err = err
		}
		return
	}
	slices.SortFunc(list, func(a, b *corev1.ResourceQuota) int { return cmp.Compare(a.Name, b.Name) })
	ledgers := make([]*ledger, len(list))
	for i, limits := range list {
		ledgers[i] = &ledger{quota: limits, used: limits.Status.Used}
	}
	for _, c := range batch {
		charges := make([]corev1.ResourceList, len(ledgers))
		for i, l := range ledgers {
			if charges[i], c.err = l.judge(c); c.err != nil {
				break
			}
		}
		for i, l := range ledgers {
			if c.err == nil && !c.request.DryRun {
				l.charge(c, charges[i])
			}
		}
	}
	for _, l := range ledgers {
		q.settle(ctx, l)
	}
}

// judge returns what a request is to be charged, or why the quota refuses it.
func (l *ledger) judge(c *quotaCheck) (corev1.ResourceList, error) {
	r := c.request
	if !c.concerns(l.quota) {
		return nil, nil
	}
	hard := corev1.ResourceList{}
	names := quota.Names(r.Kind, l.quota.Status.Hard)
	for _, name := range names {
		hard[name] = l.quota.Status.Hard[name]
	}
	if pod, ok := r.Object.(*corev1.Pod); ok && r.Verb == "create" {
		if missing := quota.Unspecified(pod, hard); missing != "" {
			return nil, forbidden(r, fmt.Sprintf("failed quota: %s: must specify %s", l.quota.Name, missing))
		}
	}
	requested := corev1.ResourceList{}
	wanted := c.takes(l.quota)
	var exceeded []corev1.ResourceName
	for _, name := range names {
		used, known := l.used[name]
		if !known {
			return nil, forbidden(r, fmt.Sprintf("status unknown for quota: %s, resources: %s", l.quota.Name, joined(names)))
		}
		quantity := wanted[name]
		if quantity.Sign() <= 0 {
			continue
		}
		requested[name] = quantity
		total := used.DeepCopy()
		total.Add(quantity)
		if total.Cmp(hard[name]) > 0 {
			exceeded = append(exceeded, name)
		}
	}
	if len(exceeded) > 0 {
		return nil, forbidden(r, fmt.Sprintf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
			l.quota.Name, listText(requested, exceeded), listText(l.used, exceeded), listText(hard, exceeded)))
	}
	return requested, nil
}

func (l *ledger) charge(c *quotaCheck, amounts corev1.ResourceList) {
	if len(amounts) == 0 {
		return
	}
	if len(l.charged) == 0 {
		l.used = l.used.DeepCopy()
	}
	l.charged = append(l.charged, c)
	for name, quantity := range amounts {
		total := l.used[name]
		total.Add(quantity)
		l.used[name] = total
	}
}

// settle writes what a quota was charged. If another server or the loop wrote it meanwhile it judges again.
func (q *quotas) settle(ctx context.Context, l *ledger) {
	request := &call.Request{Verb: "update", Kind: core.ResourceQuotas.Kind, Namespace: l.quota.Namespace, Name: l.quota.Name, Subresource: "status"}
	var err error
	for range quotaAttempts {
		if l.charged = slices.DeleteFunc(l.charged, func(c *quotaCheck) bool { return c.err != nil }); len(l.charged) == 0 {
			return
		}
		next := l.quota.DeepCopy()
		next.Status.Used = l.used
		again := *request
		again.Object = next
		if _, err = q.writer.Do(ctx, &again); err == nil || apierrors.IsNotFound(err) {
			return
		}
		if !apierrors.IsConflict(err) {
			break
		}
		now, failed := q.writer.Do(ctx, &call.Request{Verb: "get", Kind: request.Kind, Namespace: request.Namespace, Name: request.Name})
		if failed != nil {
			err = failed
			break
		}
		charged := l.charged
		*l = ledger{quota: core.ResourceQuotas.Cast(now.Object)}
		l.used = l.quota.Status.Used
		for _, c := range charged {
			var amounts corev1.ResourceList
			if amounts, c.err = l.judge(c); c.err == nil {
				l.charge(c, amounts)
			}
		}
	}
	for _, c := range l.charged {
		c.err = err
	}
}

func joined(names []corev1.ResourceName) string {
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = string(name)
	}
	return strings.Join(texts, ",")
}

func listText(list corev1.ResourceList, names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		quantity := list[name]
		parts = append(parts, string(name)+"="+quantity.String())
	}
	return strings.Join(parts, ",")
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
