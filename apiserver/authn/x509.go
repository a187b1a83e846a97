// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"knarr.dev/api/call"
)

// certificates recognises client certificates: the common name is the user, organizations are groups.
//
// The TLS layer asks for certificates without verifying them, so that a bad one gets a 401 with a reason.
type certificates struct {
	roots func() *x509.CertPool
	now   func() time.Time
	known Memory[[sha256.Size]byte, *verified]
}

// verified is a certificate that was good against pool; the same connection shows it with every request.
type verified struct {
	pool     *x509.CertPool
	until    time.Time
	identity *call.Identity
}

func (c *certificates) Authenticate(r *http.Request) (*call.Identity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	sum, pool, now := sha256.Sum256(leaf.Raw), c.roots(), c.now()
	if v, ok := c.known.Get(sum); ok && v.pool == pool && now.Before(v.until) {
		return clone(v.identity), nil
	}
	intermediates := x509.NewCertPool()
	for _, other := range r.TLS.PeerCertificates[1:] {
		intermediates.AddCert(other)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("verify the client certificate %q: %w", leaf.Subject, err)
	}
	if leaf.Subject.CommonName == "" {
		return nil, fmt.Errorf("the client certificate %q has no common name", leaf.Subject)
	}
	v := &verified{pool: pool, until: earliestEnd(chains[0]), identity: &call.Identity{
		Name:   leaf.Subject.CommonName,
		Groups: leaf.Subject.Organization,
		Extra:  map[string][]string{credentialKey: {"X509SHA256=" + hex.EncodeToString(sum[:])}},
	}}
	c.known.Put(sum, v)
	return clone(v.identity), nil
}

func earliestEnd(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// clone gives away an identity to which others may append.
func clone(i *call.Identity) *call.Identity {
	c := *i
	c.Groups = slices.Clip(slices.Clone(i.Groups))
	return &c
}

// Memory remembers up to about twice memoryLimit values; the older half is forgotten at once.
type Memory[K comparable, V any] struct {
	mu           sync.Mutex
	young, older map[K]V
}

const memoryLimit = 2048

// Get returns what is remembered of k.
func (m *Memory[K, V]) Get(k K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.young[k]; ok {
		return v, true
	}
	v, ok := m.older[k]
	if ok {
		m.set(k, v)
	}
	return v, ok
}

// Put remembers v of k.
func (m *Memory[K, V]) Put(k K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(k, v)
}

// set needs mu.
func (m *Memory[K, V]) set(k K, v V) {
	if m.young == nil || len(m.young) >= memoryLimit {
		m.young, m.older = make(map[K]V), m.young
	}
	m.young[k] = v
}
