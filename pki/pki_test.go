// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// clock is a settable clock.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, c *clock) *Set {
	t.Helper()
	s, err := Open(dir, Options{Now: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestChains(t *testing.T) {
	c := &clock{start}
	dir := t.TempDir()
	s := open(t, dir, c)
	serving, err := s.Server([]string{"box"}, []net.IP{net.IPv4(10, 43, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	server, _ := serving(nil)
	admin, _, err := s.IssueClient("admin", []string{"system:masters"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	kubelet, _, err := s.IssueServing("n1", []string{"n1"}, []net.IP{net.IPv4(10, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	certificates := map[string]*x509.Certificate{
		"server":         server.Leaf,
		"admin":          parse(t, admin),
		"kubelet":        parse(t, kubelet),
		"kubelet-client": parse(t, read(t, dir, "apiserver-kubelet-client.crt")),
		"front-proxy":    parse(t, read(t, dir, "front-proxy-client.crt")),
		"etcd-client":    parse(t, read(t, dir, "apiserver-etcd-client.crt")),
	}
	signers := map[string]string{
		"server": ServerCA, "admin": ClientCA, "kubelet": KubeletCA, "kubelet-client": ClientCA, "front-proxy": FrontProxyCA, "etcd-client": EtcdCA,
	}
	for name, certificate := range certificates {
		for _, authority := range []string{ServerCA, ClientCA, KubeletCA, FrontProxyCA, EtcdCA} {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(read(t, dir, authority+".crt"))
			_, err := certificate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			if want := signers[name] == authority; want != (err == nil) {
				t.Errorf("%s against %s: %v", name, authority, err)
			}
		}
	}
	if got := certificates["admin"].Subject.String(); got != "CN=admin,O=system:masters" {
		t.Errorf("admin is %q", got)
	}
	for _, host := range []string{"kubernetes", "kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "10.43.0.1", "box"} {
		if err := server.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"ca.key", "sa.key", "apiserver.key", "etcd/ca.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestReopen(t *testing.T) {
	c := &clock{start}
	dir := t.TempDir()
	first := open(t, dir, c)
	if _, err := first.Server(nil, nil); err != nil {
		t.Fatal(err)
	}
	before := read(t, dir, "apiserver.crt")
	second := open(t, dir, c)
	if _, err := second.Server(nil, nil); err != nil {
		t.Fatal(err)
	}
	if string(before) != string(read(t, dir, "apiserver.crt")) {
		t.Error("reopening replaced a good certificate")
	}
	if string(first.Certificate(ServerCA)) != string(second.Certificate(ServerCA)) || !samePublicKey(first.TokenKey().Public(), second.TokenKey().Public()) {
		t.Error("reopening replaced an authority or the token key")
	}
	if _, err := second.Server([]string{"new.example"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := parse(t, read(t, dir, "apiserver.crt")).VerifyHostname("new.example"); err != nil {
		t.Error(err)
	}
}

func TestRenewal(t *testing.T) {
	c := &clock{start}
	dir := t.TempDir()
	s := open(t, dir, c)
	serving, err := s.Server(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "admin.kubeconfig")
	if err := s.KeepKubeconfig(config, "https://127.0.0.1:6443", "admin", []string{"system:masters"}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after           time.Duration
		leaf, authority bool // renewed
	}{
		{LeafLifetime / 2, false, false},
		{LeafLifetime/3*2 + time.Hour, true, false},
		{AuthorityLifetime/3*2 + time.Hour, true, true},
		{2 * AuthorityLifetime, true, true},
	} {
		leaf, _ := serving(nil)
		authority, kubeconfig := s.Certificate(ServerCA), read(t, dir, "admin.kubeconfig")
		c.now = start.Add(step.after)
		if err := s.Renew(); err != nil {
			t.Fatal(err)
		}
		now, _ := serving(nil)
		if renewed := !now.Leaf.Equal(leaf.Leaf); renewed != step.leaf {
			t.Errorf("after %v: leaf renewed is %v", step.after, renewed)
		}
		if renewed := string(s.Certificate(ServerCA)) != string(authority); renewed != step.authority {
			t.Errorf("after %v: authority renewed is %v", step.after, renewed)
		}
		if renewed := string(read(t, dir, "admin.kubeconfig")) != string(kubeconfig); renewed != step.leaf {
			t.Errorf("after %v: kubeconfig renewed is %v", step.after, renewed)
		}
		if _, err := now.Leaf.Verify(x509.VerifyOptions{Roots: s.Pool(ServerCA), CurrentTime: c.now, DNSName: "localhost"}); err != nil {
			t.Errorf("after %v: %v", step.after, err)
		}
	}
	loaded, err := clientcmd.Load(read(t, dir, "admin.kubeconfig"))
	if err != nil || loaded.Clusters["knarr"].Server != "https://127.0.0.1:6443" {
		t.Errorf("kubeconfig: %v", err)
	}
}

func TestBadFiles(t *testing.T) {
	for _, test := range []struct{ file, content, want string }{
		{"ca.crt", "garbage", "ca.crt is not a PEM file"},
		{"client-ca.key", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", "client-ca.key is not a private key"},
		{"ca.crt", "COPY client-ca.crt", "ca.crt does not belong to the key beside it"},
		{"front-proxy-client.key", "COPY sa.key", "front-proxy-client.crt does not belong"},
		{"ca.crt", "COPY apiserver-kubelet-client.crt", "ca.crt is not a certificate authority"},
	} {
		dir := t.TempDir()
		open(t, dir, &clock{start})
		content := []byte(test.content)
		if other, ok := strings.CutPrefix(test.content, "COPY "); ok {
			content = read(t, dir, other)
		}
		if err := os.WriteFile(filepath.Join(dir, test.file), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{Now: (&clock{start}).Now}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s = %.12q: error %v, want %q", test.file, test.content, err, test.want)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		if _, err := Open(b.TempDir(), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
