// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"knarr.dev/pki"
)

func clusterInfo(t *testing.T, ca []byte, id, secret string) map[string]string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters[""] = &clientcmdapi.Cluster{Server: "https://192.0.2.1:6443", CertificateAuthorityData: ca}
	kubeconfig, err := clientcmd.Write(*config)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(secret)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	detached, err := signature.DetachedCompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"kubeconfig": string(kubeconfig), "jws-kubeconfig-" + id: detached}
}

func TestVerify(t *testing.T) {
	set, err := pki.Open(t.TempDir(), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ca := set.Certificate(pki.ServerCA)
	hash, err := CAHash(ca)
	if err != nil {
		t.Fatal(err)
	}
	const id, secret = "abcdef", "0123456789abcdef-0123456789abcdef"
	good := clusterInfo(t, ca, id, secret)
	forged := clusterInfo(t, set.Certificate(pki.ClientCA), id, secret)
	forged["jws-kubeconfig-"+id] = good["jws-kubeconfig-"+id]
	for _, test := range []struct {
		name     string
		data     map[string]string
		cluster  Cluster
		want     string // in the error
		unsigned bool
	}{
		{"the signature fits", good, Cluster{TokenID: id, TokenSecret: secret}, "", false},
		{"the hash fits", good, Cluster{CAHash: strings.ToUpper(hash)}, "", false},
		{"another secret", good, Cluster{TokenID: id, TokenSecret: secret[:32] + "0"}, "does not fit", false},
		{"another token", good, Cluster{TokenID: "abcdeg", TokenSecret: secret}, "the token is wrong or expired", true},
		{"another authority", forged, Cluster{TokenID: id, TokenSecret: secret}, "does not fit", false},
		{"another hash", forged, Cluster{TokenID: id, TokenSecret: secret, CAHash: hash}, "is not the expected cluster", false},
		{"a hash of another kind", good, Cluster{CAHash: "md5:00"}, "has not the form", false},
		{"no authority", map[string]string{"kubeconfig": "{}"}, Cluster{TokenID: id}, "no PEM", false},
	} {
		test.cluster.Server = "https://192.0.2.1:6443"
		got, err := test.cluster.verify(test.data)
		if test.want == "" {
			if err != nil || string(got) != string(ca) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, errUnsigned) != test.unsigned {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestLoadRefusesWhatDoesNotFit(t *testing.T) {
	set, err := pki.Open(t.TempDir(), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &Certificate{Dir: t.TempDir(), Name: "serving", CommonName: "system:node:a", Names: []string{"a"}, IPs: []net.IP{net.IPv4(192, 0, 2, 7)}}
	if err := c.Load(time.Now()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if _, err := c.TLS(nil); err == nil || !c.due(time.Now()) {
		t.Errorf("nothing there: TLS %v", err)
	}
	key, err := c.key()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := set.SignServing(key.Public(), "a", c.Names, c.IPs, 3*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(c.CertFile(), signed, 0o644); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := c.Load(now); err != nil {
		t.Fatal(err)
	}
	if again, err := c.key(); err != nil || !again.Equal(key) {
		t.Errorf("the key changed: %v", err)
	}
	if c.due(now) || !c.due(now.Add(2*time.Hour+time.Minute)) {
		t.Error("due at the wrong time")
	}
	if err := c.Load(now.Add(4 * time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	c.IPs = []net.IP{net.IPv4(192, 0, 2, 8)}
	if err := c.Load(now); err == nil || !strings.Contains(err.Error(), "lacks the address 192.0.2.8") {
		t.Errorf("another address: %v", err)
	}
}
