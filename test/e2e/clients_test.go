// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// TestPlainClients uses client-go as any outside program does, over JSON and protobuf.
func TestPlainClients(t *testing.T) {
	s := startServer(t, "up", "--simulated-nodes", "3")
	for _, contentType := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(contentType, func(t *testing.T) {
			config := s.restConfig(t)
			config.ContentType = contentType
			kube := kubernetes.NewForConfigOrDie(config)
			ns, err := kube.CoreV1().Namespaces().Create(t.Context(),
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "clients-"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			t.Run("informers and typed apply", func(t *testing.T) { informersAndApply(t, kube, ns.Name) })
			t.Run("leader election", func(t *testing.T) { leaders(t, kube, ns.Name) })
		})
	}
	t.Run("dynamic and metadata clients", func(t *testing.T) { dynamicClients(t, s.restConfig(t)) })
}

func informersAndApply(t *testing.T, kube kubernetes.Interface, ns string) {
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(ns))
	pods := factory.Core().V1().Pods()
	var added, deleted atomic.Int64
	pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), pods.Informer().HasSynced) {
		t.Fatal("no sync")
	}
	deployment := appsapply.Deployment("web", ns).WithSpec(appsapply.DeploymentSpec().WithReplicas(4).
		WithSelector(metaapply.LabelSelector().WithMatchLabels(map[string]string{"app": "web"})).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(map[string]string{"app": "web"}).
			WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("c").WithImage("any")))))
	d, err := kube.AppsV1().Deployments(ns).Apply(ctx, deployment, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := kube.AppsV1().Deployments(ns).Apply(ctx, deployment, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil || again.UID != d.UID || !equality.Semantic.DeepEqual(again.Spec, d.Spec) {
		t.Errorf("applied again: %+v, %v", again.ObjectMeta, err)
	}
	eventually(t, time.Minute, func() error {
		list, err := pods.Lister().Pods(ns).List(labels.Everything())
		if err != nil {
			return err
		}
		running := 0
		for _, p := range list {
			if p.Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running != 4 || added.Load() != 4 {
			return fmt.Errorf("%d of %d pods run, %d added", running, len(list), added.Load())
		}
		return nil
	})
	if err := kube.AppsV1().Deployments(ns).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		if deleted.Load() != added.Load() {
			return fmt.Errorf("%d of %d pods deleted", deleted.Load(), added.Load())
		}
		return nil
	})
}

func leaders(t *testing.T, kube kubernetes.Interface, ns string) {
	elected := make(chan string, 4)
	run := func(ctx context.Context, id string) {
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: "lock", Namespace: ns}, Client: kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: id},
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { elected <- id },
				OnStoppedLeading: func() {},
			},
		})
	}
	first, stopFirst := context.WithCancel(t.Context())
	go run(first, "a")
	if got := <-elected; got != "a" {
		t.Fatalf("first leader %q", got)
	}
	second, stopSecond := context.WithCancel(t.Context())
	defer stopSecond()
	go run(second, "b")
	stopFirst()
	select {
	case got := <-elected:
		if got != "b" {
			t.Errorf("second leader %q", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("nobody took over")
	}
}

func dynamicClients(t *testing.T, config *rest.Config) {
	client := dynamic.NewForConfigOrDie(config)
	maps := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("default")
	w, err := maps.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=dynamic"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "dynamic"}, "data": map[string]any{"a": "1"},
	}}
	if _, err := maps.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := maps.Patch(t.Context(), "dynamic", "application/merge-patch+json", []byte(`{"data":{"a":null,"b":"2"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if data, _, _ := unstructured.NestedStringMap(got.Object, "data"); len(data) != 1 || data["b"] != "2" {
		t.Errorf("patched data %v", data)
	}
	if err := maps.Delete(t.Context(), "dynamic", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ADDED", "MODIFIED", "DELETED"} {
		select {
		case e := <-w.ResultChan():
			if string(e.Type) != want {
				t.Fatalf("event %s, want %s", e.Type, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no %s event", want)
		}
	}
	list, err := metadata.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) < 4 {
		t.Errorf("metadata of namespaces: %v, %v", list, err)
	}
}
