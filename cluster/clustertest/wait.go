// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"context"
	"errors"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/yaml"

	"knarr.dev/api/apps"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// Namespace makes a namespace whose name begins with that of the test, and deletes it when t is over.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, t.Name()), "-")
	name = strings.TrimRight(name[:min(len(name), 50)], "-")
	namespaces := client.Of(c.Client(), core.Namespaces)
	made, err := namespaces.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}})
	if err != nil {
		t.Fatalf("make a namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := namespaces.Delete(context.Background(), client.Key{Name: made.Name}, nil); err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete the namespace: %v", err)
		}
	})
	if c.runs("serviceaccount") {
		c.waitAccount(t, made.Name)
	}
	return made.Name
}

// waitAccount waits until a namespace has its default service account: pods are refused before.
func (c *Cluster) waitAccount(t testing.TB, namespace string) {
	t.Helper()
	Wait(t, c, core.ServiceAccounts, client.Key{Namespace: namespace, Name: "default"}, func(a *corev1.ServiceAccount) bool { return a != nil })
}

// Wait returns an object once it is as wanted. While there is none, until gets nil. It fails the test if that takes too long.
func Wait[T any](t testing.TB, c *Cluster, kind *resource.Type[T], key client.Key, until func(*T) bool) *T {
	t.Helper()
	var found *T
	WaitAll(t, c, kind, client.ListOptions{Namespace: key.Namespace}, func(all []*T) bool {
		found = nil
		for _, o := range all {
			if kind.Erase(o).GetName() == key.Name {
				found = o
			}
		}
		return until(found)
	})
	return found
}

// WaitAll returns all objects that match once they are as wanted. It fails the test if that takes too long. It looks at each
// change, so it neither sleeps nor misses a state that lasts.
func WaitAll[T any](t testing.TB, c *Cluster, kind *resource.Type[T], match client.ListOptions, until func([]*T) bool) []*T {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), c.options.timeout, errTooLong)
	defer cancel()
	view, err := client.Of(c.Client(), kind).View(ctx, client.ListOptions{Labels: match.Labels, Fields: match.Fields})
	if err != nil {
		t.Fatalf("wait for %s: %v", kind.Kind.Resource, err)
	}
	var all []*T
	synced, met := false, false
	look := func() {
		if !synced || met {
			return
		}
		all = nil
		for o := range view.All(match.Namespace) {
			all = append(all, o)
		}
		if met = until(all); met {
			cancel()
		}
	}
	err = view.Subscribe(ctx, func(_, _ *T) { look() }, func() { synced = true; look() })
	if !met {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		t.Fatalf("wait for %s in namespace %q: %v\n%s", kind.Kind.Resource, match.Namespace, err, c.state(match.Namespace))
	}
	return all
}

var errTooLong = errors.New("it took too long")

// WaitReady waits until at least n pods that match a selector ("app=web") are ready, and returns those.
func (c *Cluster) WaitReady(t testing.TB, namespace, selector string, n int) []*corev1.Pod {
	t.Helper()
	match, err := labels.Parse(selector)
	if err != nil {
		t.Fatalf("selector: %v", err)
	}
	var ready []*corev1.Pod
	WaitAll(t, c, core.Pods, client.ListOptions{Namespace: namespace, Labels: match}, func(all []*corev1.Pod) bool {
		ready = nil
		for _, p := range all {
			if isReady(p) {
				ready = append(ready, p)
			}
		}
		return len(ready) >= n
	})
	return ready
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// WaitDeployment waits until a deployment is rolled out: all its pods are of the present template, and available.
func (c *Cluster) WaitDeployment(t testing.TB, namespace, name string) *appsv1.Deployment {
	t.Helper()
	return Wait(t, c, apps.Deployments, client.Key{Namespace: namespace, Name: name}, func(d *appsv1.Deployment) bool {
		return d != nil && d.Status.ObservedGeneration >= d.Generation && d.Status.Replicas == *d.Spec.Replicas &&
			d.Status.UpdatedReplicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas
	})
}

// Create makes an object of YAML or JSON text; its kind is that of the token.
//
//	pod := clustertest.Create(t, c, core.Pods, namespace, `{metadata: {name: web}, spec: {containers: [{name: web, image: web}]}}`)
func Create[T any](t testing.TB, c *Cluster, kind *resource.Type[T], namespace, text string) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("%s: %v", kind.Kind.Kind, err)
	}
	if namespace != "" {
		kind.Erase(obj).SetNamespace(namespace)
	}
	made, err := client.Of(c.Client(), kind).Create(t.Context(), obj)
	if err != nil {
		t.Fatalf("create %s: %v", kind.Kind.Kind, err)
	}
	return made
}
