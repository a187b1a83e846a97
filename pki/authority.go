// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// authority is one certificate authority.
type authority struct {
	name, commonName string
	present          atomic.Pointer[signer]
}

// signer is an authority at one time. The key is nil if only the certificate is here.
type signer struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pool        *x509.CertPool
}

// openAuthority reads, makes or renews an authority.
func (s *Set) openAuthority(a *authority) error {
	now := s.now()
	key, err := s.readKey(a.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	certificate, err := s.readCertificate(a.name)
	switch {
	case err == nil:
		if err := checkAuthority(s.path(a.name+".crt"), certificate, key); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case key == nil:
		if key, err = s.createKey(a.name); err != nil {
			return err
		}
	}
	if certificate == nil || due(certificate, now) && key != nil {
		renewed := certificate != nil
		if certificate, err = s.signAuthority(a, key, certificate, now); err != nil {
			return err
		}
		if renewed {
			s.log.Info("renewed certificate authority", "file", s.path(a.name+".crt"), "until", certificate.NotAfter)
		}
	}
	if now.After(certificate.NotAfter) {
		return fmt.Errorf("%s expired on %s and its key is not here to renew it", s.path(a.name+".crt"), certificate.NotAfter)
	}
	if old := a.present.Load(); old != nil && old.certificate.Equal(certificate) {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	a.present.Store(&signer{certificate: certificate, key: key, pool: pool})
	return nil
}

func checkAuthority(file string, c *x509.Certificate, key crypto.Signer) error {
	if !c.IsCA {
		return fmt.Errorf("%s is not a certificate authority", file)
	}
	if key != nil && !samePublicKey(c.PublicKey, key.Public()) {
		return fmt.Errorf("%s does not belong to the key beside it", file)
	}
	return nil
}

// signAuthority makes the certificate of an authority; a renewed one keeps subject and key, so what it signed stays valid.
func (s *Set) signAuthority(a *authority, key crypto.Signer, old *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: a.commonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		IsCA:                  true,
		BasicConstraintsValid: true,
		DNSNames:              []string{a.commonName},
	}
	if old != nil {
		template.Subject, template.SubjectKeyId, template.DNSNames = old.Subject, old.SubjectKeyId, old.DNSNames
	}
	certificate, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", s.path(a.name+".crt"), err)
	}
	return certificate, writeFile(s.path(a.name+".crt"), encodeCertificate(certificate), 0o644)
}

// leaf is a certificate that an authority of the set signed, kept in files.
type leaf struct {
	name, signer   string
	commonName     string
	orgs           []string
	names          []string
	ips            []net.IP
	client, server bool
	present        atomic.Pointer[tls.Certificate]
}

// openLeaf reads, makes or renews a leaf.
func (s *Set) openLeaf(l *leaf) error {
	now := s.now()
	key, err := s.readKey(l.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	certificate, err := s.readCertificate(l.name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file := s.path(l.name + ".crt")
	if key == nil {
		certificate = nil // worth nothing without its key
		if key, err = s.createKey(l.name); err != nil {
			return err
		}
	}
	if certificate != nil {
		if !samePublicKey(certificate.PublicKey, key.Public()) {
			return fmt.Errorf("%s does not belong to the key beside it: remove both to have new ones", file)
		}
		if ca := s.authorities[l.signer].present.Load().certificate; certificate.CheckSignatureFrom(ca) != nil {
			return fmt.Errorf("%s is not signed by %s: remove it to have a new one", file, s.path(l.signer+".crt"))
		}
	}
	if certificate == nil || due(certificate, now) || !l.covers(certificate) {
		renewed := certificate != nil
		if certificate, err = s.issue(l.signer, l.template(), key.Public(), LeafLifetime); err != nil {
			return fmt.Errorf("issue %s: %w", file, err)
		}
		if err := writeFile(file, encodeCertificate(certificate), 0o644); err != nil {
			return err
		}
		if renewed {
			s.log.Info("renewed certificate", "file", file, "until", certificate.NotAfter)
		}
	}
	if old := l.present.Load(); old != nil && old.Leaf.Equal(certificate) {
		return nil
	}
	l.present.Store(&tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate})
	return nil
}

func (l *leaf) template() *x509.Certificate {
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: l.commonName, Organization: l.orgs},
		KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: l.names, IPAddresses: l.ips,
	}
	if l.server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if l.client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return t
}

// covers tells whether a certificate on disk has every name that is wanted.
func (l *leaf) covers(c *x509.Certificate) bool {
	for _, name := range l.names {
		if !slices.Contains(c.DNSNames, name) {
			return false
		}
	}
	for _, ip := range l.ips {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// issue signs a leaf; it never outlives its authority.
func (s *Set) issue(authority string, template *x509.Certificate, public crypto.PublicKey, lifetime time.Duration) (*x509.Certificate, error) {
	by := s.authorities[authority].present.Load()
	if by.key == nil {
		return nil, fmt.Errorf("the key %s is not here", s.path(authority+".key"))
	}
	now := s.now()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(lifetime)
	if template.NotAfter.After(by.certificate.NotAfter) {
		template.NotAfter = by.certificate.NotAfter
	}
	return sign(template, by.certificate, public, by.key)
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// IssueClient makes a client certificate, signed by client-ca, and its key, both PEM. lifetime 0 is LeafLifetime.
func (s *Set) IssueClient(commonName string, orgs []string, lifetime time.Duration) (certificatePEM, keyPEM []byte, err error) {
	return s.issuePair(ClientCA, &leaf{commonName: commonName, orgs: orgs, client: true}, lifetime)
}

// IssueServing makes a serving certificate for a node agent, signed by kubelet-ca, and its key, both PEM. Its subject is
// system:node:NODE of system:nodes, as the signer kubernetes.io/kubelet-serving asks.
func (s *Set) IssueServing(node string, names []string, ips []net.IP) (certificatePEM, keyPEM []byte, err error) {
	return s.issuePair(KubeletCA, &leaf{
		commonName: "system:node:" + node, orgs: []string{"system:nodes"}, names: names, ips: ips, server: true,
	}, 0)
}

func (s *Set) issuePair(authority string, l *leaf, lifetime time.Duration) (certificatePEM, keyPEM []byte, err error) {
	if lifetime == 0 {
		lifetime = LeafLifetime
	}
	key, err := newKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", l.commonName, err)
	}
	certificate, err := s.issue(authority, l.template(), key.Public(), lifetime)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a certificate for %s: %w", l.commonName, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCertificate(certificate), keyPEM, err
}

// SignClient signs a public key that somebody else holds (a joining node, a certificate signing request) with client-ca and
// returns PEM. The caller has checked that the key is theirs and the subject is allowed. lifetime 0 is LeafLifetime.
func (s *Set) SignClient(public crypto.PublicKey, commonName string, orgs []string, lifetime time.Duration) ([]byte, error) {
	return s.signFor(ClientCA, &leaf{commonName: commonName, orgs: orgs, client: true}, public, lifetime)
}

// SignServing is SignClient for a node agent's serving certificate, by kubelet-ca.
func (s *Set) SignServing(public crypto.PublicKey, node string, names []string, ips []net.IP, lifetime time.Duration) ([]byte, error) {
	return s.signFor(KubeletCA, &leaf{
		commonName: "system:node:" + node, orgs: []string{"system:nodes"}, names: names, ips: ips, server: true,
	}, public, lifetime)
}

func (s *Set) signFor(authority string, l *leaf, public crypto.PublicKey, lifetime time.Duration) ([]byte, error) {
	if lifetime == 0 {
		lifetime = LeafLifetime
	}
	certificate, err := s.issue(authority, l.template(), public, lifetime)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", l.commonName, err)
	}
	return encodeCertificate(certificate), nil
}
