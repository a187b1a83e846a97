// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/pki"
)

// TestFrontProxy speaks for somebody over TLS, with the certificate that aggregated API servers and proxies get. A client shows it only
// to a server that names its authority.
func TestFrontProxy(t *testing.T) {
	c := start(t, func(c *Config) { c.NoSockets, c.Listen = false, "127.0.0.1:0" })
	dir := filepath.Join(c.config.DataDir, "pki")
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "front-proxy-client.crt"), filepath.Join(dir, "front-proxy-client.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.pki.Certificate(pki.ServerCA))
	ask := func(certificates ...tls.Certificate) string {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}}
		defer client.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), "POST", c.URL()+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Remote-User", "jane")
		r.Header.Set("X-Remote-Group", "dev")
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := ask(certificate); !strings.Contains(got, `"username":"jane"`) || !strings.Contains(got, `"dev","system:authenticated"`) {
		t.Errorf("a front proxy: %s", got)
	}
	if got := ask(); !strings.Contains(got, "system:anonymous") {
		t.Errorf("somebody else: %s", got)
	}
}
