// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki keeps the cluster's certificate authorities, certificates and keys as PEM files.
//
// The layout is kubeadm's, with an authority of its own for each purpose, so that trust can be seen and tested with
// openssl: "ca" signs the API server's certificate, "client-ca" clients, "kubelet-ca" the node agents' servers,
// "front-proxy-ca" the aggregation client and "etcd/ca" the store. All keys are ECDSA P-256.
//
// Open creates what is missing and refuses what does not fit together, naming the file. Leaves last a year and
// authorities ten; Run renews both when two thirds of that have passed, without a restart: everything a Set hands to
// crypto/tls asks it for the present certificate. Renewal keeps the key, so it replaces one file and a crash in the
// middle leaves a valid pair. Start at Open.
package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lifetimes of what the package issues.
const (
	LeafLifetime      = 365 * 24 * time.Hour
	AuthorityLifetime = 10 * LeafLifetime
	// checkEvery bounds how long a file changed by somebody else stays unnoticed.
	checkEvery = time.Hour
	// backdate allows for clocks that are behind.
	backdate = 5 * time.Minute
)

// Names of the authorities: files NAME.crt and NAME.key.
const (
	ServerCA     = "ca"
	ClientCA     = "client-ca"
	KubeletCA    = "kubelet-ca"
	FrontProxyCA = "front-proxy-ca"
	EtcdCA       = "etcd/ca"
)

// Options say how a Set behaves; the zero value is usable.
type Options struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Log is told of renewals; nil is silence.
	Log *slog.Logger
}

// Set is the open set of authorities, certificates and keys of one cluster. Its methods may be used concurrently.
type Set struct {
	dir         string
	now         func() time.Time
	log         *slog.Logger
	authorities map[string]*authority
	tokenKey    crypto.Signer

	mu          sync.Mutex
	leaves      map[string]*leaf
	kubeconfigs []*kubeconfig
}

// Open opens the set in dir: it creates what is missing, renews what is due and checks the rest.
func Open(dir string, o Options) (*Set, error) {
	s := &Set{dir: dir, now: o.Now, log: o.Log, authorities: map[string]*authority{}, leaves: map[string]*leaf{}}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700); err != nil {
		return nil, fmt.Errorf("create the certificate directory: %w", err)
	}
	// Files are made at the same time: the cost of the set is that of one synchronous write, not of twenty.
	authorities := []*authority{
		{name: ServerCA, commonName: "kubernetes"},
		{name: ClientCA, commonName: "kubernetes-client"},
		{name: KubeletCA, commonName: "kubernetes-kubelet"},
		{name: FrontProxyCA, commonName: "front-proxy-ca"},
		{name: EtcdCA, commonName: "etcd-ca"},
	}
	var work parallel
	for _, a := range authorities {
		s.authorities[a.name] = a
		work.do(func() error { return s.openAuthority(a) })
	}
	work.do(s.openTokenKey)
	if err := work.wait(); err != nil {
		return nil, err
	}
	work = parallel{}
	for _, l := range []*leaf{
		{name: "apiserver-kubelet-client", signer: ClientCA, commonName: "kube-apiserver-kubelet-client", orgs: []string{"system:masters"}, client: true},
		{name: "front-proxy-client", signer: FrontProxyCA, commonName: "front-proxy-client", client: true},
		{name: "apiserver-etcd-client", signer: EtcdCA, commonName: "kube-apiserver-etcd-client", client: true},
	} {
		s.leaves[l.name] = l
		work.do(func() error { return s.openLeaf(l) })
	}
	if err := work.wait(); err != nil {
		return nil, err
	}
	return s, nil
}

// parallel runs functions at once and joins their errors.
type parallel struct {
	wg     sync.WaitGroup
	mu     sync.Mutex
	errors []error
}

func (p *parallel) do(f func() error) {
	p.wg.Go(func() {
		if err := f(); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.errors = append(p.errors, err)
		}
	})
}

func (p *parallel) wait() error {
	p.wg.Wait()
	return errors.Join(p.errors...)
}

// HostNames returns the names and addresses by which others may reach this machine, for Server.
func HostNames() ([]string, []net.IP) {
	var names []string
	if name, err := os.Hostname(); err == nil && name != "" {
		names = append(names, name)
	}
	var ips []net.IP
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return names, nil
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	return names, ips
}

// Server opens the API server's certificate, apiserver.crt, and returns what tls.Config.GetCertificate wants. The
// certificate is valid for kubernetes.default.svc and its short forms, localhost, and the names and addresses given
// (the first service address must be among them); one on disk that lacks any of these is replaced.
func (s *Set) Server(names []string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	l, err := s.addLeaf(&leaf{
		name: "apiserver", signer: ServerCA, commonName: "kube-apiserver", server: true,
		names: append([]string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		}, names...),
		ips: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, ips...),
	})
	if err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.present.Load(), nil }, nil
}

// Etcd opens the certificate of an etcd server that the program runs, etcd/server.crt, also valid for its peers.
func (s *Set) Etcd(names []string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	l, err := s.addLeaf(&leaf{
		name: "etcd/server", signer: EtcdCA, commonName: "etcd-server", server: true, client: true,
		names: append([]string{"localhost"}, names...), ips: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, ips...),
	})
	if err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.present.Load(), nil }, nil
}

func (s *Set) addLeaf(l *leaf) (*leaf, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLeaf(l); err != nil {
		return nil, err
	}
	s.leaves[l.name] = l
	return l, nil
}

// Certificate returns the PEM of an authority's certificate: what a kubeconfig and kube-root-ca.crt carry is
// Certificate(ServerCA).
func (s *Set) Certificate(authority string) []byte {
	return encodeCertificate(s.authorities[authority].present.Load().certificate)
}

// Pool returns the authority as a pool. It is the present one: ask again for each use.
func (s *Set) Pool(authority string) *x509.CertPool {
	return s.authorities[authority].present.Load().pool
}

// ClientCAs returns who may vouch for clients of the API server.
func (s *Set) ClientCAs() *x509.CertPool { return s.Pool(ClientCA) }

// KubeletClientTLS is how the API server calls node agents: it shows apiserver-kubelet-client and trusts kubelet-ca.
func (s *Set) KubeletClientTLS() *tls.Config {
	return s.clientTLS("apiserver-kubelet-client", KubeletCA)
}

// FrontProxyTLS is how the API server calls aggregated API servers, apart from whom it trusts.
func (s *Set) FrontProxyTLS() *tls.Config {
	config := s.clientTLS("front-proxy-client", FrontProxyCA)
	config.RootCAs = nil
	return config
}

// EtcdClientTLS is how the API server calls an etcd whose certificates the program made.
func (s *Set) EtcdClientTLS() *tls.Config { return s.clientTLS("apiserver-etcd-client", EtcdCA) }

func (s *Set) clientTLS(name, trust string) *tls.Config {
	l := s.leaves[name] // made by Open, never replaced
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    s.Pool(trust),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return l.present.Load(), nil
		},
	}
}

// TokenKey is the key that signs service account tokens: sa.key, whose public half is sa.pub.
func (s *Set) TokenKey() crypto.Signer { return s.tokenKey }

// Run renews certificates until ctx ends. A failed renewal is logged and tried again.
func (s *Set) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := s.Renew(); err != nil {
			s.log.Error("renew certificates", "error", err)
		}
		timer.Reset(checkEvery)
	}
}

// Renew takes over files that somebody else replaced and renews what is due now. Run calls it.
func (s *Set) Renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []error
	for _, a := range s.authorities {
		problems = append(problems, s.openAuthority(a))
	}
	for _, l := range s.leaves {
		problems = append(problems, s.openLeaf(l))
	}
	for _, k := range s.kubeconfigs {
		problems = append(problems, s.keep(k))
	}
	return errors.Join(problems...)
}

// due tells whether two thirds of a certificate's life have passed.
func due(c *x509.Certificate, now time.Time) bool {
	life := c.NotAfter.Sub(c.NotBefore)
	return now.After(c.NotAfter.Add(-life / 3))
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
