// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllerruntime runs a controller with webhooks against the cluster of KUBECONFIG, and against an API server that envtest
// starts from the directory KUBEBUILDER_ASSETS.
package controllerruntime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

const namespace = "sites"

// world is a running manager and a client beside it.
type world struct {
	client.Client // reads from the server
	manager       manager.Manager
	// whole says that there are controllers and nodes beside the API server.
	whole bool
}

// TestExistingCluster points envtest at the cluster.
func TestExistingCluster(t *testing.T) {
	existing := true
	run(t, &envtest.Environment{UseExistingCluster: &existing}, true)
}

// TestBinaries lets envtest start kube-apiserver and etcd.
func TestBinaries(t *testing.T) {
	run(t, &envtest.Environment{AttachControlPlaneOutput: testing.Verbose()}, false)
}

func run(t *testing.T, env *envtest.Environment, whole bool) {
	log.SetLogger(zap.New(zap.WriteTo(t.Output()), zap.UseDevMode(true)))
	env.Scheme, env.ErrorIfCRDPathMissing = newScheme(), true
	env.CRDInstallOptions = envtest.CRDInstallOptions{Paths: []string{"testdata/definitions"}, CleanUpAfterUse: true}
	env.WebhookInstallOptions.Paths = []string{"testdata/webhooks"}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	w := &world{whole: whole}
	if w.Client, err = client.New(config, client.Options{Scheme: env.Scheme}); err != nil {
		t.Fatal(err)
	}
	if err := w.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Fatal(err)
	}
	if w.manager, err = newManager(t.Context(), config, env); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.manager.Start(ctx) }()
	for _, step := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"leader election", stepLeader},
		{"webhooks", stepWebhooks},
		{"reconciliation", stepReconcile},
		{"cache with index", stepCache},
		{"conversion", stepConversion},
		{"finalizer and owner references", stepDelete},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, w) }) {
			break
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("manager: %v", err)
	}
	w.cleanUp(t, env)
}

func newManager(ctx context.Context, config *rest.Config, env *envtest.Environment) (manager.Manager, error) {
	hooks := env.WebhookInstallOptions
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: env.Scheme, Metrics: metricsserver.Options{BindAddress: "0"},
		LeaderElection: true, LeaderElectionID: "sites", LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir}),
		Controller:    controllerOptions(),
	})
	if err != nil {
		return nil, err
	}
	if err := m.GetFieldIndexer().IndexField(ctx, &Site{}, "spec.owner", func(o client.Object) []string {
		return []string{o.(*Site).Spec.Owner}
	}); err != nil {
		return nil, err
	}
	r := &reconciler{Client: m.GetClient(), recorder: m.GetEventRecorder("sites")}
	if err := ctrl.NewControllerManagedBy(m).For(&Site{}).Owns(&appsv1.Deployment{}).Complete(r); err != nil {
		return nil, err
	}
	return m, ctrl.NewWebhookManagedBy(m, &Site{}).WithDefaulter(rules{}).WithValidator(rules{}).Complete()
}

// controllerOptions let two managers of one process have controllers of one name.
func controllerOptions() config.Controller {
	yes := true
	return config.Controller{SkipNameValidation: &yes}
}

// cleanUp removes what the next user of the cluster would meet.
func (w *world) cleanUp(t *testing.T, env *envtest.Environment) {
	for _, o := range env.WebhookInstallOptions.MutatingWebhooks {
		if err := w.Delete(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	for _, o := range env.WebhookInstallOptions.ValidatingWebhooks {
		if err := w.Delete(t.Context(), o); err != nil {
			t.Error(err)
		}
	}
	if err := w.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		t.Error(err)
	}
}

func site(name, owner string) *Site {
	return &Site{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: SiteSpec{Owner: owner}}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func stepLeader(t *testing.T, w *world) {
	select {
	case <-w.manager.Elected():
	case <-time.After(time.Minute):
		t.Fatal("not elected")
	}
	var lease coordinationv1.Lease
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "sites"}, &lease); err != nil || lease.Spec.HolderIdentity == nil {
		t.Errorf("lease %+v, %v", lease.Spec, err)
	}
	eventually(t, func() error { return w.manager.GetWebhookServer().StartedChecker()(nil) })
}

func stepWebhooks(t *testing.T, w *world) {
	one := site("one", "ann")
	if err := w.Create(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if one.Spec.Replicas == nil || *one.Spec.Replicas != 2 || one.Labels["owner"] != "ann" {
		t.Errorf("defaults: %+v, labels %v", one.Spec, one.Labels)
	}
	err := w.Create(t.Context(), site("two", "nobody"))
	const denied = `admission webhook "validate.sites.web.example.com" denied the request: two needs an owner`
	if !errors.IsForbidden(err) || !strings.Contains(err.Error(), denied) {
		t.Errorf("without an owner: %v", err)
	}
	var much int32 = 20
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, much))
	if err := w.Patch(t.Context(), site("one", ""), patch); !errors.IsForbidden(err) || !strings.Contains(err.Error(), "grow slowly: 2 to 20") {
		t.Errorf("patched to %d: %v", much, err)
	}
	patch = client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"owner":"bob"}}`))
	if err := w.Patch(t.Context(), site("one", ""), patch); !errors.IsInvalid(err) || !strings.Contains(err.Error(), "the owner stays") {
		t.Errorf("another owner: %v", err)
	}
}

func stepReconcile(t *testing.T, w *world) {
	key := client.ObjectKey{Namespace: namespace, Name: "one"}
	var web appsv1.Deployment
	eventually(t, func() error { return w.Get(t.Context(), key, &web) })
	if !w.whole { // nobody else writes it
		web.Status = appsv1.DeploymentStatus{ObservedGeneration: web.Generation, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2}
		if err := w.Status().Update(t.Context(), &web); err != nil {
			t.Fatal(err)
		}
	}
	var s Site
	eventually(t, func() error {
		if err := w.Get(t.Context(), key, &s); err != nil {
			return err
		}
		if s.Status.Ready != 2 || !meta.IsStatusConditionTrue(s.Status.Conditions, "Ready") {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
	if s.Generation != 1 || !slices.Contains(s.Finalizers, finalizer) {
		t.Errorf("generation %d, finalizers %v", s.Generation, s.Finalizers)
	}
	owner := metav1.GetControllerOf(&web)
	if owner == nil || owner.UID != s.UID || owner.Kind != "Site" || owner.BlockOwnerDeletion == nil || !*owner.BlockOwnerDeletion {
		t.Errorf("owner %+v", owner)
	}
	eventually(t, func() error {
		var list eventsv1.EventList
		if err := w.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.UID == s.UID && e.Reason == "Created" && e.Note == "created deployment one" && e.ReportingController == "sites" {
				return nil
			}
		}
		return fmt.Errorf("no event among %d", len(list.Items))
	})
}

func stepCache(t *testing.T, w *world) {
	for _, s := range []*Site{site("three", "bob"), site("four", "bob")} {
		s.Spec.Replicas = new(int32)
		if err := w.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	names := func(o ...client.ListOption) string {
		var list SiteList
		if err := w.manager.GetClient().List(t.Context(), &list, append(o, client.InNamespace(namespace))...); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range list.Items {
			out = append(out, s.Name)
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	for _, o := range []client.ListOption{client.MatchingFields{"spec.owner": "bob"}, client.MatchingLabels{"owner": "bob"}} {
		eventually(t, func() error {
			if got := names(o); got != "four three" {
				return fmt.Errorf("sites of bob by %T: %q", o, got)
			}
			return nil
		})
	}
	if got := names(); got != "four one three" {
		t.Errorf("all sites: %q", got)
	}
}

func stepConversion(t *testing.T, w *world) {
	var old OldSite
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "one"}, &old); err != nil {
		t.Fatal(err)
	}
	if old.Spec.Pods == nil || *old.Spec.Pods != 2 || old.Spec.Owner != "ann" {
		t.Errorf("as v1beta1: %+v", old.Spec)
	}
	var n int32 = 1
	old.Spec.Pods = &n
	if err := w.Update(t.Context(), &old); err != nil {
		t.Fatal(err)
	}
	var web appsv1.Deployment
	eventually(t, func() error {
		if err := w.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "one"}, &web); err != nil {
			return err
		}
		if *web.Spec.Replicas != 1 {
			return fmt.Errorf("%d replicas", *web.Spec.Replicas)
		}
		return nil
	})
}

func stepDelete(t *testing.T, w *world) {
	key := client.ObjectKey{Namespace: namespace, Name: "one"}
	keep := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"keep":"yes"}}}`))
	if err := w.Patch(t.Context(), site("one", ""), keep); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), site("one", "")); !errors.IsForbidden(err) {
		t.Errorf("deleted what is to be kept: %v", err)
	}
	keep = client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"keep":null}}}`))
	if err := w.Patch(t.Context(), site("one", ""), keep); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteAllOf(t.Context(), &Site{}, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	gone := func(o client.Object) {
		t.Helper()
		eventually(t, func() error {
			if err := w.Get(t.Context(), key, o); !errors.IsNotFound(err) {
				return fmt.Errorf("%T is still there: %v", o, err)
			}
			return nil
		})
	}
	gone(&Site{})
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "goodbye-one"}, &corev1.ConfigMap{}); err != nil {
		t.Error(err)
	}
	if w.whole { // there is a garbage collector
		gone(&appsv1.Deployment{})
		gone(&corev1.ConfigMap{})
	}
}
