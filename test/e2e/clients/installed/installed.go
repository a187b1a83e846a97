// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package installed looks at what the chart of folder testdata left in a cluster, for the tests of several versions of Helm.
package installed

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// Chart is the folder of the chart, seen from the packages beside this one.
const Chart = "../testdata/web"

var greetings = schema.GroupVersionResource{Group: "helm.example.com", Version: "v1", Resource: "greetings"}

// Release is a release of the chart.
type Release struct {
	Kube      kubernetes.Interface
	Namespace string

	dynamic dynamic.Interface
}

// State is what can be seen of a release.
type State struct {
	// Ready is how many replicas are ready, all of Image.
	Ready int32
	Image string
	// Greeting is in the config map, in the pods' annotations and in the custom resource.
	Greeting string
	// Since is the revision that wrote the config map first: the chart looks it up.
	Since string
	// Before is the revision that ran the hook before an installation or upgrade.
	Before string
}

// New returns a release in the cluster of KUBECONFIG.
func New(t *testing.T, namespace string) Release {
	t.Helper()
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	return Release{Kube: kubernetes.NewForConfigOrDie(config), Namespace: namespace, dynamic: dynamic.NewForConfigOrDie(config)}
}

// Expect fails the test unless the release is in a state, with all of its pods ready at once: Helm has waited for that.
func (r Release) Expect(t *testing.T, want State) {
	t.Helper()
	got, err := r.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the release is %+v, want %+v", got, want)
	}
}

func (r Release) state(ctx context.Context) (State, error) {
	var s State
	settings, err := r.Kube.CoreV1().ConfigMaps(r.Namespace).Get(ctx, "settings", metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	before, err := r.Kube.CoreV1().ConfigMaps(r.Namespace).Get(ctx, "before", metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	greeting, err := r.dynamic.Resource(greetings).Namespace(r.Namespace).Get(ctx, "greeting", metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	web, err := r.Kube.AppsV1().Deployments(r.Namespace).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return s, err
	}
	text := settings.Data["greeting"]
	custom := greeting.Object["spec"].(map[string]any)["text"]
	if noted := web.Spec.Template.Annotations["greeting"]; noted != text || custom != text {
		return s, fmt.Errorf("greetings differ: %q, %q, %q", text, noted, custom)
	}
	if settings.Data["deployments"] != "true" || settings.Data["namespaces"] != "true" || !strings.HasPrefix(settings.Data["kubernetes"], "v1.36.") {
		return s, fmt.Errorf("the chart saw %v", settings.Data)
	}
	if s := web.Status; s.ObservedGeneration != web.Generation || s.UpdatedReplicas != *web.Spec.Replicas || s.ReadyReplicas < *web.Spec.Replicas {
		return State{}, fmt.Errorf("not rolled out: %+v", s)
	}
	return State{
		Ready: *web.Spec.Replicas, Image: web.Spec.Template.Spec.Containers[0].Image,
		Greeting: text, Since: settings.Data["since"], Before: before.Data["revision"],
	}, nil
}

// Interfere changes the greeting and the replicas in the name of somebody else.
func (r Release) Interfere(t *testing.T) {
	t.Helper()
	const patch = `{"metadata":{"annotations":{"mine":"yes"}},"data":{"greeting":"changed","extra":"kept"}}`
	_, err := r.Kube.CoreV1().ConfigMaps(r.Namespace).Patch(t.Context(), "settings", "application/merge-patch+json", []byte(patch),
		metav1.PatchOptions{FieldManager: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
}

// Kept fails the test unless what only somebody else has set is still there.
func (r Release) Kept(t *testing.T) {
	t.Helper()
	m, err := r.Kube.CoreV1().ConfigMaps(r.Namespace).Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Annotations["mine"] != "yes" || m.Data["extra"] != "kept" {
		t.Errorf("annotations %v, data %v", m.Annotations, m.Data)
	}
}

// Gone fails the test unless the release's objects are gone, apart from hooks and the definition of the custom resource; then removes those.
func (r Release) Gone(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	// Helm 4 takes as gone what it has heard nothing of when its watches have begun, so that it may not wait for all.
	vanishes(t, "deployment", func() error {
		_, err := r.Kube.AppsV1().Deployments(r.Namespace).Get(ctx, "web", metav1.GetOptions{})
		return err
	})
	if _, err := r.Kube.CoreV1().ConfigMaps(r.Namespace).Get(ctx, "settings", metav1.GetOptions{}); !errors.IsNotFound(err) {
		t.Errorf("config map: %v", err)
	}
	left, err := r.dynamic.Resource(greetings).Namespace(r.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("custom resources: %v, %v", left, err)
	}
	secrets, err := r.Kube.CoreV1().Secrets(r.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) > 0 {
		t.Errorf("secrets of the release: %d, %v", len(secrets.Items), err)
	}
	if err := r.Kube.CoreV1().Namespaces().Delete(ctx, r.Namespace, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	definitions := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	if err := r.dynamic.Resource(definitions).Delete(ctx, "greetings.helm.example.com", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	vanishes(t, "definition", func() error {
		_, err := r.dynamic.Resource(definitions).Get(ctx, "greetings.helm.example.com", metav1.GetOptions{})
		return err
	})
}

// vanishes waits until get finds nothing.
func vanishes(t *testing.T, what string, get func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := get()
		if errors.IsNotFound(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the %s stays: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
