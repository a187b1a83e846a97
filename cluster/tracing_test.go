// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/apiserver/tracing/tracetest"
	"knarr.dev/client"
)

const tracingHead = "{apiVersion: apiserver.config.k8s.io/v1, kind: TracingConfiguration, "

func TestTracesAreSentAtTheEnd(t *testing.T) {
	collector := tracetest.Start(t)
	c := start(t, func(c *Config) {
		c.Serving.TracingConfigFile = write(t, tracingHead+"samplingRatePerMillion: 1000000, endpoint: '"+collector.Endpoint+"'}")
	})
	maps := client.Of(c.Client(Administrator()), core.ConfigMaps)
	if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "m"}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := tracetest.Tree(collector.Spans("")), "POST /api/v1/namespaces/{:namespace}/configmaps("; !strings.Contains(got, want) {
		t.Errorf("spans %s, want %s", got, want)
	}
}

func TestTracingConfigurationIsRefused(t *testing.T) {
	file := write(t, tracingHead+"samplingRatePerMillion: -1}")
	c, err := Start(t.Context(), Config{
		Role: RoleAPIServer, DataDir: t.TempDir(), InMemory: true, NoSockets: true, Serving: ServingConfig{TracingConfigFile: file},
	}, slog.New(slog.DiscardHandler))
	if err == nil {
		c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "tracingConfigFile "+file) || !strings.Contains(err.Error(), "samplingRatePerMillion") {
		t.Errorf("error %v", err)
	}
}
