// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/apps"
	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster/clustertest"
)

// A node falls silent: after its grace period it is not ready, after five minutes its pods are replaced elsewhere. When it
// returns, it is ready again. All of it takes no time.
func TestNodeFailsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, clustertest.Nodes(2), clustertest.WithoutSockets(), clustertest.WaitAtMost(time.Hour))
		clustertest.Create(t, c, apps.Deployments, "default", `{metadata: {name: web}, spec: {replicas: 4, selector: {matchLabels: {app: web}},
			template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}}}`)
		c.WaitDeployment(t, "default", "web")
		began := time.Now()
		setDown(t, c, "simulated-1", true)
		waitNode(t, c, "simulated-1", corev1.ConditionUnknown)
		if after := time.Since(began); after < 40*time.Second || after > time.Minute {
			t.Errorf("the node was given up after %s", after)
		}
		clustertest.WaitAll(t, c, core.Pods, client.ListOptions{Namespace: "default"}, func(pods []*corev1.Pod) bool {
			running := 0
			for _, p := range pods {
				if p.Spec.NodeName == "simulated-2" && p.Status.Phase == corev1.PodRunning {
					running++
				}
			}
			return running == 4
		})
		if after := time.Since(began); after < 5*time.Minute || after > 7*time.Minute {
			t.Errorf("the pods were replaced after %s", after)
		}
		setDown(t, c, "simulated-1", false)
		waitNode(t, c, "simulated-1", corev1.ConditionTrue)
		clustertest.WaitAll(t, c, core.Pods, client.ListOptions{Namespace: "default"}, func(pods []*corev1.Pod) bool { return len(pods) == 4 })
	})
}

// Hours go by, with leases and heartbeats, and nothing happens.
func TestHoursInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, clustertest.Nodes(2), clustertest.WithoutSockets())
		clustertest.Create(t, c, apps.Deployments, "default", `{metadata: {name: web}, spec: {replicas: 3, selector: {matchLabels: {app: web}},
			template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}}}`)
		before := c.WaitDeployment(t, "default", "web")
		time.Sleep(2 * time.Hour)
		if after := c.WaitDeployment(t, "default", "web"); after.ResourceVersion != before.ResourceVersion {
			t.Errorf("the deployment changed: %+v", after.Status)
		}
		for i := range 2 {
			waitNode(t, c, fmt.Sprint("simulated-", i+1), corev1.ConditionTrue)
		}
	})
}

func setDown(t *testing.T, c *clustertest.Cluster, node string, down bool) {
	t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{"simulated.knarr.dev/down":"%t"}}}`, down)
	if _, err := client.Of(c.Client(), core.Nodes).Patch(t.Context(), client.Key{Name: node}, types.MergePatchType, []byte(patch), ""); err != nil {
		t.Fatal(err)
	}
}

func waitNode(t *testing.T, c *clustertest.Cluster, name string, ready corev1.ConditionStatus) {
	t.Helper()
	clustertest.Wait(t, c, core.Nodes, client.Key{Name: name}, func(n *corev1.Node) bool {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == ready
			}
		}
		return false
	})
}
