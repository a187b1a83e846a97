// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package podgc deletes pods that nobody else will: those of nodes that are gone, those being deleted that never had a
// node, and the oldest of too many that have ended.
package podgc

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/controller"
)

const (
	// every is how often the loop looks.
	every = 20 * time.Second
	// quarantine is how long a node must be gone before its pods go: it may be registering just now.
	quarantine = 40 * time.Second
	// endedLimit is how many ended pods are kept.
	endedLimit = 12500
)

// Needs are the rules of the loop's role.
func Needs() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"delete", "get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"patch", "update"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
	}
}

// New returns the loop.
func New(c *client.Client) controller.Controller {
	g := &collector{pods: client.Of(c, core.Pods), nodes: client.Of(c, core.Nodes), missing: map[string]time.Time{}}
	return controller.Controller{Name: "pod-garbage-collector", Needs: Needs(), Run: g.run}
}

type collector struct {
	pods    client.Resource[corev1.Pod]
	nodes   client.Resource[corev1.Node]
	missing map[string]time.Time // since when a node that pods name is gone
}

func (g *collector) run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		_ = g.collect(ctx, time.Now()) // what failed is still there for the next round
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *collector) collect(ctx context.Context, now time.Time) error {
	pods, err := g.pods.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	nodes, err := g.nodes.View(ctx, client.ListOptions{})
	if err != nil {
		return err
	}
	var all []*corev1.Pod
	for p := range pods.All("") {
		all = append(all, p)
	}
	known := map[string]bool{}
	for n := range nodes.All("") {
		known[n.Name] = true
	}
	g.notice(all, known, now)
	var problems []error
	for _, p := range Doomed(all, g.missing, now, endedLimit) {
		zero := int64(0)
		err := g.pods.Delete(ctx, client.KeyOf(p), &metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &p.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// notice keeps the times at which nodes were first seen to be gone.
func (g *collector) notice(pods []*corev1.Pod, known map[string]bool, now time.Time) {
	gone := map[string]time.Time{}
	for _, p := range pods {
		if n := p.Spec.NodeName; n != "" && !known[n] {
			gone[n] = now
			if since, ok := g.missing[n]; ok {
				gone[n] = since
			}
		}
	}
	g.missing = gone
}

// Doomed returns the pods that are to be deleted.
func Doomed(pods []*corev1.Pod, missing map[string]time.Time, now time.Time, limit int) []*corev1.Pod {
	var doomed, ended []*corev1.Pod
	for _, p := range pods {
		since, gone := missing[p.Spec.NodeName]
		switch {
		case gone && p.Spec.NodeName != "" && now.Sub(since) >= quarantine:
			doomed = append(doomed, p)
		case p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
			doomed = append(doomed, p)
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
			ended = append(ended, p)
		}
	}
	if excess := len(ended) - limit; excess > 0 {
		slices.SortStableFunc(ended, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		doomed = append(doomed, ended[:excess]...)
	}
	return doomed
}
