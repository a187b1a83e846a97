// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package helm4 installs a chart with the library of Helm 4 into the cluster of KUBECONFIG, by server-side apply.
package helm4

import (
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/test/e2e/clients/installed"
)

const (
	namespace = "helm4"
	name      = "shop"
	timeout   = 2 * time.Minute
)

// helm is a chart and the place it goes to.
type helm struct {
	config *action.Configuration
	chart  chart.Charter
	installed.Release
}

func newHelm(t *testing.T) helm {
	t.Helper()
	settings := cli.New()
	settings.SetNamespace(namespace)
	config := action.NewConfiguration()
	if err := config.Init(settings.RESTClientGetter(), namespace, "secret"); err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadDir(installed.Chart)
	if err != nil {
		t.Fatal(err)
	}
	return helm{config, c, installed.New(t, namespace)}
}

func (h helm) upgrade(change func(*action.Upgrade), values map[string]any) error {
	u := action.NewUpgrade(h.config)
	u.Namespace, u.WaitStrategy, u.Timeout = namespace, kube.StatusWatcherStrategy, timeout
	if change != nil {
		change(u)
	}
	_, err := u.Run(name, h.chart, values)
	return err
}

// TestRelease goes through the life of a release; its steps build on each other.
func TestRelease(t *testing.T) {
	h := newHelm(t)
	h.install(t)
	if err := h.upgrade(nil, map[string]any{"version": "2", "replicas": 1, "greeting": "ahoy"}); err != nil {
		t.Fatal(err)
	}
	h.Expect(t, installed.State{Ready: 1, Image: "knarr.dev/web:2", Greeting: "ahoy", Since: "1", Before: "2"})
	h.refused(t)
	h.conflict(t)
	back := action.NewRollback(h.config)
	back.Version, back.WaitStrategy, back.Timeout, back.ServerSideApply = 1, kube.StatusWatcherStrategy, timeout, "auto"
	if err := back.Run(name); err != nil {
		t.Fatal(err)
	}
	h.Expect(t, installed.State{Ready: 2, Image: "knarr.dev/web:1", Greeting: "hello", Since: "1", Before: "6"})
	h.Kept(t)
	h.test(t)
	h.history(t)
	un := action.NewUninstall(h.config)
	un.WaitStrategy, un.Timeout, un.DeletionPropagation = kube.StatusWatcherStrategy, timeout, "foreground"
	if _, err := un.Run(name); err != nil {
		t.Fatal(err)
	}
	h.Gone(t)
}

func (h helm) install(t *testing.T) {
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.CreateNamespace, i.WaitStrategy, i.Timeout = name, namespace, true, kube.StatusWatcherStrategy, timeout
	i.ServerSideApply = true
	got, err := i.Run(h.chart, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := got.(*release.Release)
	if r.Info.Status != common.StatusDeployed || strings.TrimSpace(r.Info.Notes) != "shop says hello" || r.ApplyMethod != "ssa" {
		t.Errorf("installed: %s by %q, %q", r.Info.Status, r.ApplyMethod, r.Info.Notes)
	}
	h.Expect(t, installed.State{Ready: 2, Image: "knarr.dev/web:1", Greeting: "hello", Since: "1", Before: "1"})
	m, err := h.Kube.CoreV1().ConfigMaps(namespace).Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(m.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Operation == metav1.ManagedFieldsOperationApply }) {
		t.Errorf("not applied: %v", m.ManagedFields)
	}
}

// refused tries an upgrade that the server refuses, which Helm takes back.
func (h helm) refused(t *testing.T) {
	err := h.upgrade(func(u *action.Upgrade) { u.RollbackOnFailure = true }, map[string]any{"replicas": -1, "greeting": "far too long a greeting"})
	if err == nil || !strings.Contains(err.Error(), "Too long") && !strings.Contains(err.Error(), "spec.replicas: Invalid value: -1") {
		t.Errorf("a wrong upgrade: %v", err)
	}
	h.Expect(t, installed.State{Ready: 1, Image: "knarr.dev/web:2", Greeting: "ahoy", Since: "1", Before: "3"})
}

// conflict has somebody else own a field, which Helm takes only by force.
func (h helm) conflict(t *testing.T) {
	h.Interfere(t)
	values := map[string]any{"version": "2", "replicas": 1, "greeting": "salut"}
	if err := h.upgrade(nil, values); err == nil || !strings.Contains(err.Error(), `conflict with "somebody"`) || !strings.Contains(err.Error(), ".data.greeting") {
		t.Errorf("over another manager: %v", err)
	}
	if err := h.upgrade(func(u *action.Upgrade) { u.ForceConflicts = true }, values); err != nil {
		t.Fatal(err)
	}
	h.Expect(t, installed.State{Ready: 1, Image: "knarr.dev/web:2", Greeting: "salut", Since: "1", Before: "6"})
	h.Kept(t)
}

func (h helm) test(t *testing.T) {
	test := action.NewReleaseTesting(h.config)
	test.Namespace, test.Timeout = namespace, timeout
	r, shutdown, err := test.Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := test.GetPodLogs(&out, r.(*release.Release)); err != nil || !strings.Contains(out.String(), `"hostname"`) {
		t.Errorf("log of the test: %q, %v", out.String(), err)
	}
	if err := shutdown(); err != nil {
		t.Error(err)
	}
}

func (h helm) history(t *testing.T) {
	all, err := action.NewHistory(h.config).Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all {
		got = append(got, r.(*release.Release).Info.Status.String())
	}
	want := "superseded superseded failed superseded failed superseded deployed"
	if strings.Join(got, " ") != want {
		t.Errorf("history %v, want %s", got, want)
	}
}
