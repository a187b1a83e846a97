// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package clustertest starts whole clusters inside tests.
//
// New starts an API server, the control loops, the scheduler and simulated nodes in the process of the test. It needs no root, no
// fixed port and no program beside the test, and leaves nothing behind: everything stops when the test ends. Clusters
// share nothing, so tests may run in parallel. Deployments roll out, garbage is collected, namespaces empty themselves,
// pods are scheduled and "run" on simulated nodes, which have no containers; package node/simulated says how a pod's
// annotations make it take time, end or fail.
//
//	func TestOperator(t *testing.T) {
//		c := clustertest.New(t)
//		clientset := kubernetes.NewForConfigOrDie(c.RESTConfig())
//		...
//	}
//
// When a test fails, what the cluster logged and the pods that are not well are printed. Start with New.
package clustertest

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/api/call"
	"knarr.dev/api/rbac"
	"knarr.dev/client"
	"knarr.dev/cluster"
)

// Cluster is a running cluster that belongs to a test.
type Cluster struct {
	t       testing.TB
	cluster *cluster.Cluster
	options options
	log     *tail
}

// New starts a cluster and returns when it is ready. It stops when the test is over; a test whose cluster failed fails.
func New(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	o := defaults()
	for _, set := range opts {
		set(&o)
	}
	dir := o.config.DataDir
	if dir == "" {
		dir = t.TempDir()
		o.config.InMemory = true
	}
	o.config.DataDir, o.config.Listen, o.config.NodeName = dir, "127.0.0.1:0", "test"
	if o.config.Kubeconfig == "" {
		o.config.Kubeconfig = filepath.Join(dir, "admin.kubeconfig")
	}
	c := &Cluster{t: t, options: o, log: newTail()}
	started, err := cluster.Start(context.Background(), o.config, slog.New(c.handler()))
	if err != nil {
		t.Logf("what the cluster logged:\n%s", c.log)
		t.Fatalf("start the cluster: %v", err)
	}
	c.cluster = started
	t.Cleanup(c.stop)
	c.settle()
	return c
}

// settle waits for what control loops make of a fresh cluster, so that tests find it: without the account no pod can be made,
// without the rules nobody who is bound to the user-facing roles may do anything.
func (c *Cluster) settle() {
	c.t.Helper()
	if c.runs("serviceaccount") {
		c.waitAccount(c.t, metav1.NamespaceDefault)
	}
	if c.runs("clusterrole-aggregation") {
		for _, role := range []string{"view", "edit", "admin"} {
			Wait(c.t, c, rbac.ClusterRoles, client.Key{Name: role}, func(r *rbacv1.ClusterRole) bool { return r != nil && len(r.Rules) > 0 })
		}
	}
}

// runs tells whether a control loop runs.
func (c *Cluster) runs(loop string) bool {
	if c.options.config.Role == cluster.RoleAPIServer {
		return false
	}
	patterns := c.options.config.Controllers
	return !slices.Contains(patterns, "-"+loop) && (len(patterns) == 0 || slices.Contains(patterns, "*") || slices.Contains(patterns, loop))
}

func (c *Cluster) handler() slog.Handler {
	options := &slog.HandlerOptions{Level: c.options.level}
	if c.options.verbose {
		return slog.NewTextHandler(c.t.Output(), options)
	}
	return slog.NewTextHandler(c.log, options)
}

func (c *Cluster) stop() {
	if c.t.Failed() {
		c.explain()
	}
	if err := c.cluster.Close(); err != nil {
		c.t.Errorf("the cluster: %v", err)
	}
}

// Cluster is the cluster itself.
func (c *Cluster) Cluster() *cluster.Cluster { return c.cluster }

// RESTConfig returns how client-go reaches the cluster as its administrator, without limits on the rate of requests. The
// caller owns it.
func (c *Cluster) RESTConfig() *rest.Config {
	c.t.Helper()
	return c.RESTConfigAs("admin", "system:masters")
}

// RESTConfigAs returns how client-go reaches the cluster as a user, who may do what RBAC allows.
func (c *Cluster) RESTConfigAs(user string, groups ...string) *rest.Config {
	c.t.Helper()
	config, err := c.cluster.RESTConfig(user, groups...)
	if err != nil {
		c.t.Fatalf("configuration of a client: %v", err)
	}
	config.QPS, config.Burst = -1, -1
	return config
}

// Kubernetes returns a client-go client of the administrator.
func (c *Cluster) Kubernetes() kubernetes.Interface {
	c.t.Helper()
	config := c.RESTConfig()
	clients, err := rest.HTTPClientFor(config)
	if err != nil {
		c.t.Fatalf("client: %v", err)
	}
	clientset, err := kubernetes.NewForConfigAndClient(config, clients)
	if err != nil {
		c.t.Fatalf("client: %v", err)
	}
	c.t.Cleanup(clients.CloseIdleConnections)
	return clientset
}

// Kubeconfig is a file with which programs such as kubectl reach the cluster as its administrator.
func (c *Cluster) Kubeconfig() string { return c.cluster.KubeconfigFile() }

// Client returns this program's own client of the administrator: it uses no socket and encodes nothing.
func (c *Cluster) Client() *client.Client { return c.cluster.Client(cluster.Administrator()) }

// ClientAs returns this program's own client of a user.
func (c *Cluster) ClientAs(user string, groups ...string) *client.Client {
	return c.cluster.Client(call.Identity{Name: user, Groups: groups})
}

// Timeout is how long the functions of this package wait; see WaitAtMost.
func (c *Cluster) Timeout() time.Duration { return c.options.timeout }
