// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/rbac"
	"knarr.dev/client"
	"knarr.dev/cluster/clustertest"
)

func TestPodsLive(t *testing.T) {
	c := clustertest.New(t, clustertest.Nodes(2), clustertest.WithoutSockets())
	ns := c.Namespace(t)
	pods := client.Of(c.Client(), core.Pods)

	clustertest.Create(t, c, core.Pods, ns, `{metadata: {name: web, labels: {app: web}}, spec: {nodeName: simulated-2, containers: [{name: c, image: i}]}}`)
	p := c.WaitReady(t, ns, "app=web", 1)[0]
	if p.Status.PodIP == "" || p.Status.HostIP == "" || p.Status.StartTime == nil {
		t.Errorf("a running pod lacks addresses or its start: %+v", p.Status)
	}
	if err := pods.Delete(t.Context(), client.KeyOf(p), nil); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, c, core.Pods, client.KeyOf(p), func(p *corev1.Pod) bool { return p == nil })

	clustertest.Create(t, c, core.Pods, ns, `{metadata: {name: job, annotations: {simulated.knarr.dev/run: 10ms, simulated.knarr.dev/exit-code: "3"}},
		spec: {nodeName: simulated-1, restartPolicy: Never, containers: [{name: c, image: i}]}}`)
	p = clustertest.Wait(t, c, core.Pods, client.Key{Namespace: ns, Name: "job"}, func(p *corev1.Pod) bool {
		return p != nil && p.Status.Phase == corev1.PodFailed
	})
	if ended := p.Status.ContainerStatuses[0].State.Terminated; ended == nil || ended.ExitCode != 3 {
		t.Errorf("container ended as %+v", p.Status.ContainerStatuses[0].State)
	}
}

func TestNamespaceEmpties(t *testing.T) {
	c := clustertest.New(t, clustertest.WithoutSockets())
	ns := c.Namespace(t)
	clustertest.Create(t, c, core.Pods, ns, `{metadata: {name: web, labels: {app: web}}, spec: {nodeName: simulated-1, containers: [{name: c, image: i}]}}`)
	clustertest.Create(t, c, core.ConfigMaps, ns, `{metadata: {name: settings}, data: {a: b}}`)
	c.WaitReady(t, ns, "app=web", 1)
	if err := client.Of(c.Client(), core.Namespaces).Delete(t.Context(), client.Key{Name: ns}, nil); err != nil {
		t.Fatal(err)
	}
	clustertest.Wait(t, c, core.Namespaces, client.Key{Name: ns}, func(n *corev1.Namespace) bool { return n == nil })
}

func TestClientGo(t *testing.T) {
	c := clustertest.New(t)
	nodes, err := c.Kubernetes().CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "simulated-1" {
		t.Errorf("nodes: %v", nodes.Items)
	}
	jane := client.Of(c.ClientAs("jane"), core.Pods)
	if _, _, err := jane.List(t.Context(), client.ListOptions{Namespace: "default"}); !apierrors.IsForbidden(err) {
		t.Errorf("jane may list pods: %v", err)
	}
	clustertest.Create(t, c, rbac.ClusterRoleBindings, "", `{metadata: {name: jane},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]}`)
	if _, _, err := jane.List(t.Context(), client.ListOptions{Namespace: "default"}); err != nil {
		t.Errorf("jane may not list pods: %v", err)
	}
}

func TestAPIServerOnly(t *testing.T) {
	c := clustertest.New(t, clustertest.APIServerOnly())
	ns := c.Namespace(t)
	if _, err := client.Of(c.Client(), core.ServiceAccounts).Get(t.Context(), client.Key{Namespace: ns, Name: "default"}); !apierrors.IsNotFound(err) {
		t.Errorf("something made a service account: %v", err)
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	for _, first := range []bool{true, false} {
		c := clustertest.New(t, clustertest.DataDir(dir))
		if first {
			clustertest.Create(t, c, core.ConfigMaps, "default", `{metadata: {name: kept}}`)
			clustertest.Create(t, c, core.Pods, "default", `{metadata: {name: web, labels: {app: web}}, spec: {nodeName: simulated-1, containers: [{name: c, image: i}]}}`)
		} else if _, err := client.Of(c.Client(), core.ConfigMaps).Get(t.Context(), client.Key{Namespace: "default", Name: "kept"}); err != nil {
			t.Error(err)
		}
		if p := c.WaitReady(t, "default", "app=web", 1)[0]; p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod restarted: %+v", p.Status.ContainerStatuses)
		}
		if err := c.Cluster().Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClustersShareNothing(t *testing.T) {
	a, b := clustertest.New(t), clustertest.New(t)
	clustertest.Create(t, a, core.ConfigMaps, "default", `{metadata: {name: only-in-a}}`)
	if _, err := b.Kubernetes().CoreV1().ConfigMaps("default").Get(t.Context(), "only-in-a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the other cluster's object: %v", err)
	}
	config := a.RESTConfig()
	config.Host = b.RESTConfig().Host
	foreign := clientset(t, config)
	if _, err := foreign.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{}); err == nil {
		t.Error("one cluster's credentials are good for another")
	}
}
