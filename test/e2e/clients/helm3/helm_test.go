// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package helm3 installs a chart with the library of Helm 3 into the cluster of KUBECONFIG.
package helm3

import (
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/release"

	"knarr.dev/test/e2e/clients/installed"
)

const (
	namespace = "helm3"
	name      = "shop"
	timeout   = 2 * time.Minute
)

// helm is a chart and the place it goes to.
type helm struct {
	config *action.Configuration
	chart  *chart.Chart
	installed.Release
}

func newHelm(t *testing.T) helm {
	t.Helper()
	settings := cli.New()
	settings.SetNamespace(namespace)
	config := &action.Configuration{}
	if err := config.Init(settings.RESTClientGetter(), namespace, "secret", t.Logf); err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadDir(installed.Chart)
	if err != nil {
		t.Fatal(err)
	}
	return helm{config, c, installed.New(t, namespace)}
}

func (h helm) upgrade(change func(*action.Upgrade), values map[string]any) (*release.Release, error) {
	u := action.NewUpgrade(h.config)
	u.Namespace, u.Wait, u.Timeout = namespace, true, timeout
	if change != nil {
		change(u)
	}
	return u.Run(name, h.chart, values)
}

// TestRelease goes through the life of a release; its steps build on each other.
func TestRelease(t *testing.T) {
	h := newHelm(t)
	h.install(t)
	if _, err := h.upgrade(nil, map[string]any{"version": "2", "replicas": 1, "greeting": "ahoy"}); err != nil {
		t.Fatal(err)
	}
	h.Expect(t, installed.State{Ready: 1, Image: "knarr.dev/web:2", Greeting: "ahoy", Since: "1", Before: "2"})
	h.refused(t)
	h.Interfere(t)
	back := action.NewRollback(h.config)
	back.Version, back.Wait, back.Timeout = 1, true, timeout
	if err := back.Run(name); err != nil {
		t.Fatal(err)
	}
	h.Expect(t, installed.State{Ready: 2, Image: "knarr.dev/web:1", Greeting: "hello", Since: "1", Before: "3"})
	h.Kept(t)
	h.test(t)
	h.history(t)
	un := action.NewUninstall(h.config)
	un.Wait, un.Timeout, un.DeletionPropagation = true, timeout, "foreground"
	if _, err := un.Run(name); err != nil {
		t.Fatal(err)
	}
	h.Gone(t)
}

func (h helm) install(t *testing.T) {
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.CreateNamespace, i.Wait, i.Timeout = name, namespace, true, true, timeout
	r, err := i.Run(h.chart, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Info.Status != release.StatusDeployed || strings.TrimSpace(r.Info.Notes) != "shop says hello" {
		t.Errorf("installed: %s, %q", r.Info.Status, r.Info.Notes)
	}
	h.Expect(t, installed.State{Ready: 2, Image: "knarr.dev/web:1", Greeting: "hello", Since: "1", Before: "1"})
	if _, err := i.Run(h.chart, nil); err == nil || !strings.Contains(err.Error(), "cannot re-use a name") {
		t.Errorf("installed twice: %v", err)
	}
}

// refused tries an upgrade that the server refuses, which Helm takes back.
func (h helm) refused(t *testing.T) {
	_, err := h.upgrade(func(u *action.Upgrade) { u.Atomic = true }, map[string]any{"replicas": -1, "greeting": "far too long a greeting"})
	if err == nil || !strings.Contains(err.Error(), "spec.text: Too long: may not be more than 10 bytes") &&
		!strings.Contains(err.Error(), "spec.replicas: Invalid value: -1") {
		t.Errorf("a wrong upgrade: %v", err)
	}
	h.Expect(t, installed.State{Ready: 1, Image: "knarr.dev/web:2", Greeting: "ahoy", Since: "1", Before: "3"})
}

func (h helm) test(t *testing.T) {
	test := action.NewReleaseTesting(h.config)
	test.Namespace, test.Timeout = namespace, timeout
	r, err := test.Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := test.GetPodLogs(&out, r); err != nil || !strings.Contains(out.String(), `"hostname"`) {
		t.Errorf("log of the test: %q, %v", out.String(), err)
	}
}

func (h helm) history(t *testing.T) {
	all, err := action.NewHistory(h.config).Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range all {
		got = append(got, r.Info.Status.String())
	}
	want := "superseded superseded failed superseded deployed"
	if strings.Join(got, " ") != want {
		t.Errorf("history %v, want %s", got, want)
	}
	values, err := action.NewGetValues(h.config).Run(name)
	if err != nil || len(values) != 0 {
		t.Errorf("values after the rollback: %v, %v", values, err)
	}
	list, err := action.NewList(h.config).Run()
	if err != nil || len(list) != 1 || list[0].Version != 5 {
		t.Errorf("list: %v, %v", list, err)
	}
}
