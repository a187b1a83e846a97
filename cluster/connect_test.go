// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// The refusals of streams, and their forms, are those of kube-apiserver v1.36.
func TestRefusedStreams(t *testing.T) {
	c := start(t, func(c *Config) { c.TokenFile = write(t, "secret,robot,1,system:masters\n") })
	if _, err := client.Of(c.Client(Administrator()), core.Services).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}); err != nil {
		t.Fatal(err)
	}
	const of, only = "/api/v1/namespaces/default/", "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
	for _, test := range []struct {
		path, accept string
		code         int
		form, want   string
	}{
		{of + "pods/p/log", "application/json", 404, "application/json", `pods \"p\" not found`},
		{of + "pods/p/log", "application/yaml", 404, "application/yaml", `pods "p" not found`},
		{of + "pods/p/log", "application/vnd.kubernetes.protobuf", 404, "application/vnd.kubernetes.protobuf", `pods "p" not found`},
		{of + "pods/p/log", "text/plain", 406, "application/json", only},
		{of + "pods/p/log", "application/cbor", 406, "application/json", `406: Not Acceptable\n\nAvailable representations: text/plain, application/json, application/yaml, application/vnd.kubernetes.protobuf`},
		{of + "services/s/proxy/", "application/yaml", 404, "application/yaml", `services "s" not found`},
		{of + "services/s/proxy/?dryRun=All", "application/json", 400, "application/json", "dryRun is not supported"},
		{of + "pods/p/exec?dryRun=", "application/json", 400, "application/json", "dryRun is not supported"},
	} {
		r := httptest.NewRequest("GET", test.path, nil)
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Accept", test.accept)
		w := httptest.NewRecorder()
		c.Server().Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Content-Type"); w.Code != test.code || got != test.form || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s as %s: %d %s %s\nwant %d %s %s", test.path, test.accept, w.Code, got, w.Body, test.code, test.form, test.want)
		}
	}
}
