// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// proxyCertificate makes an authority and a client certificate that it signed.
func proxyCertificate(t *testing.T, name string) (*x509.CertPool, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return pool, certificate
}

func TestFrontProxy(t *testing.T) {
	pool, front := proxyCertificate(t, "front")
	_, stranger := proxyCertificate(t, "stranger")
	f := &frontProxy{now: func() time.Time { return start }, FrontProxy: FrontProxy{
		CAs: func() *x509.CertPool { return pool }, AllowedNames: []string{"front"}, UsernameHeaders: []string{"X-Remote-User"},
		UIDHeaders: []string{"X-Remote-Uid"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraHeaderPrefixes: []string{"X-Remote-Extra-"},
	}}
	ask := func(c *x509.Certificate, headers http.Header) (*http.Request, bool, error) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header, r.TLS = headers, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
		i, err := f.Authenticate(r)
		if i != nil && (i.Name != "jane" || i.UID != "7" || !slices.Equal(i.Groups, []string{"a", "b"}) || !slices.Equal(i.Extra["acme.com/p"], []string{"x"})) {
			t.Errorf("identity %+v", i)
		}
		return r, i != nil, err
	}
	headers := func() http.Header {
		return http.Header{"X-Remote-User": {"jane"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"a", "b"}, "X-Remote-Extra-Acme.com%2fp": {"x"}}
	}
	r, ok, err := ask(front, headers())
	if err != nil || !ok || len(r.Header) != 0 {
		t.Errorf("a front proxy: %v %v, headers left: %v", ok, err, r.Header)
	}
	if _, ok, err = ask(stranger, headers()); err == nil || ok {
		t.Errorf("a stranger with headers: %v %v", ok, err)
	}
	if _, ok, err = ask(stranger, http.Header{}); err != nil || ok {
		t.Errorf("another client: %v %v", ok, err)
	}
	f.AllowedNames = []string{"other"}
	if _, ok, err = ask(front, headers()); err == nil || ok {
		t.Errorf("a name that is not allowed: %v %v", ok, err)
	}
}
