// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"knarr.dev/cluster/clustertest"
)

// A test of a program that uses client-go: it makes a Deployment and waits for its pods.
func TestExample(t *testing.T) {
	c := clustertest.New(t, clustertest.Nodes(3))
	clients := kubernetes.NewForConfigOrDie(c.RESTConfig())

	web := map[string]string{"app": "web"}
	_, err := clients.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](3),
			Selector: &metav1.LabelSelector{MatchLabels: web},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: web},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	if d := c.WaitDeployment(t, "default", "web"); d.Status.ReadyReplicas != 3 {
		t.Errorf("%d replicas are ready", d.Status.ReadyReplicas)
	}
	nodes := map[string]bool{}
	for _, p := range c.WaitReady(t, "default", "app=web", 3) {
		nodes[p.Spec.NodeName] = true
	}
	if len(nodes) != 3 {
		t.Errorf("the pods are not spread over the nodes: %v", nodes)
	}
}
