// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/apps"
	"knarr.dev/api/core"
	"knarr.dev/client"
)

// TestPartsAlone runs control loops and scheduler apart from an API server that knows of neither: a Deployment gets its pods, and those
// a node.
func TestPartsAlone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c, err := Start(t.Context(), Config{Role: RoleAPIServer, DataDir: t.TempDir(), InMemory: true, Listen: "127.0.0.1:0"}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	no := false
	config := ComponentConfig{Kubeconfig: c.KubeconfigFile(), LeaderElect: &no, Controllers: []string{"deployment", "replicaset", "serviceaccount"}}
	for name, run := range map[string]func(context.Context, ComponentConfig, func(string), *slog.Logger) error{
		"controller-manager": RunControllerManager, "scheduler": RunScheduler,
	} {
		parts.Go(func() {
			if err := run(ctx, config, func(server string) {
				if server != c.URL() {
					t.Errorf("%s runs against %s", name, server)
				}
			}, log); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	api := c.Client(Administrator())
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("9")}
	node, err := client.Of(api, core.Nodes).Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	if err != nil {
		t.Fatal(err)
	}
	node = node.DeepCopy()
	node.Spec.Taints, node.Status.Capacity, node.Status.Allocatable = nil, room, room
	if node, err = client.Of(api, core.Nodes).Update(ctx, node); err == nil {
		node = node.DeepCopy()
		node.Status.Capacity, node.Status.Allocatable = room, room
		_, err = client.Of(api, core.Nodes).UpdateStatus(ctx, node)
	}
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "web"}
	replicas := int32(2)
	_, err = client.Of(api, apps.Deployments).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	pods, err := client.Of(api, core.Pods).View(ctx, client.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watching, placed := context.WithCancel(ctx)
	on := map[string]string{}
	_ = pods.Subscribe(watching, func(p, old *corev1.Pod) { // ends with its context
		if p == nil {
			return
		}
		if on[p.Name] = p.Spec.NodeName; len(on) == 2 {
			for _, node := range on {
				if node != "n" {
					return
				}
			}
			placed()
		}
	}, func() {})
	placed()
	if err := t.Context().Err(); err != nil {
		t.Fatal(err, on)
	}
}

func TestComponentConfig(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c, err := Start(t.Context(), Config{Role: RoleAPIServer, DataDir: t.TempDir(), InMemory: true, Listen: "127.0.0.1:0"}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, row := range []struct {
		config ComponentConfig
		want   string
	}{
		{ComponentConfig{}, "kubeconfig: must be given"},
		{ComponentConfig{Kubeconfig: "/nothing"}, "/nothing"},
		{ComponentConfig{Kubeconfig: c.KubeconfigFile(), Controllers: []string{"none"}}, `"none" is no control loop`},
		{ComponentConfig{Kubeconfig: c.KubeconfigFile(), PodCIDR: "x"}, "podCIDR: "},
		{ComponentConfig{Kubeconfig: c.KubeconfigFile(), RootCAFile: "/nothing"}, "rootCAFile: "},
	} {
		if err := RunControllerManager(t.Context(), row.config, nil, log); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v, want %s", row.config, err, row.want)
		}
	}
	api, err := ComponentConfig{Kubeconfig: c.KubeconfigFile(), PodCIDR: "10.42.0.0/16", NodeName: "n", NodeIP: "192.0.2.7"}.connect(log)
	if err != nil {
		t.Fatal(err)
	}
	defer api.close()
	got, err := api.proxyConfig(t.Context())
	if err != nil || got.ServiceCIDR.String() != "10.43.0.0/16" || got.NodeIPs[0].String() != "192.0.2.7" || got.NodeCIDR.String() != "192.0.2.7/32" {
		t.Errorf("proxy: %+v, %v", got, err)
	}
}
