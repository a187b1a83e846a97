// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package enroll gets a node's certificates from its cluster and keeps them as files.
//
// A Certificate describes one. Obtain makes a CertificateSigningRequest for it and waits for the answer; Keep does so again
// when two thirds of the certificate's life have passed. The key stays, so a renewal replaces one file, and a crash at any
// moment leaves a pair that fits together. Discover, in discover.go, finds out whom to ask.
package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/certificates"
	"knarr.dev/client"
)

// How long Obtain waits for a certificate, and how often Keep looks at its own and tries again.
const (
	patience   = time.Minute
	checkEvery = time.Hour
	retryAfter = time.Minute
)

// Certificate is one that the cluster signs for the node.
type Certificate struct {
	// Dir has the files Name.crt and Name.key.
	Dir, Name string
	// Node goes into the names of requests.
	Node string
	// Signer is asked for it, and Usage is what it is for.
	Signer string
	Usage  certificatesv1.KeyUsage

	CommonName    string
	Organizations []string
	Names         []string
	IPs           []net.IP

	mu      sync.Mutex
	present *tls.Certificate // as last read or obtained
}

// CertFile is the file of the certificate, in PEM.
func (c *Certificate) CertFile() string { return filepath.Join(c.Dir, c.Name+".crt") }

// KeyFile is the file of its key, in PEM.
func (c *Certificate) KeyFile() string { return filepath.Join(c.Dir, c.Name+".key") }

// Load reads the files; the error is fs.ErrNotExist if there are none yet, and says what does not fit otherwise.
func (c *Certificate) Load(now time.Time) error {
	pair, err := tls.LoadX509KeyPair(c.CertFile(), c.KeyFile())
	if err != nil {
		return fmt.Errorf("certificate %s: %w", c.Name, err)
	}
	if err := c.fits(pair.Leaf, now); err != nil {
		return fmt.Errorf("certificate %s: %w", c.CertFile(), err)
	}
	c.mu.Lock()
	c.present = &pair
	c.mu.Unlock()
	return nil
}

// fits says why a certificate is not this one, or no longer.
func (c *Certificate) fits(leaf *x509.Certificate, now time.Time) error {
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("it expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if leaf.Subject.CommonName != c.CommonName {
		return fmt.Errorf("it is for %s, not for %s", leaf.Subject.CommonName, c.CommonName)
	}
	for _, name := range c.Names {
		if !slices.Contains(leaf.DNSNames, name) {
			return fmt.Errorf("it lacks the name %s", name)
		}
	}
	for _, ip := range c.IPs {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return fmt.Errorf("it lacks the address %s", ip)
		}
	}
	return nil
}

// TLS is what tls.Config.GetCertificate wants; an error until there is a certificate.
func (c *Certificate) TLS(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present == nil {
		return nil, fmt.Errorf("the certificate %s is not signed yet", c.Name)
	}
	return c.present, nil
}

// Expires is when the present certificate ends; zero if there is none.
func (c *Certificate) Expires() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present == nil {
		return time.Time{}
	}
	return c.present.Leaf.NotAfter
}

// due tells whether two thirds of the present certificate's life have passed, or there is none.
func (c *Certificate) due(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.present == nil {
		return true
	}
	leaf := c.present.Leaf
	return now.After(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3))
}

// Ensure loads the certificate, or obtains it through api if there is none that fits.
func (c *Certificate) Ensure(ctx context.Context, api *client.Client) error {
	if c.Load(time.Now()) == nil {
		return nil
	}
	return c.Obtain(ctx, api)
}

// Obtain asks for the certificate through api, waits until it is signed, and writes it.
func (c *Certificate) Obtain(ctx context.Context, api *client.Client) error {
	key, err := c.key()
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: c.CommonName, Organization: c.Organizations},
		DNSNames: c.Names, IPAddresses: c.IPs,
	}, key)
	if err != nil {
		return fmt.Errorf("make a signing request for %s: %w", c.Name, err)
	}
	requests := client.Of(api, certificates.CertificateSigningRequests)
	request, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-" + c.Node + "-" + c.Name + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: c.Signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, c.Usage},
		},
	})
	if err != nil {
		return fmt.Errorf("ask for the certificate %s: %w", c.Name, err)
	}
	signed, err := await(ctx, requests, request.Name)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", c.Name, err)
	}
	pair, err := pairOf(signed, key)
	if err != nil {
		return fmt.Errorf("certificate %s, as signed for request %s: %w", c.Name, request.Name, err)
	}
	if err := WriteFile(c.CertFile(), signed, 0o644); err != nil {
		return err
	}
	c.mu.Lock()
	c.present = pair
	c.mu.Unlock()
	return nil
}

func pairOf(certificate []byte, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	return &pair, err
}

// await waits for the answer to a request.
func await(ctx context.Context, requests client.Resource[certificatesv1.CertificateSigningRequest], name string) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		request, err := requests.Get(limited, client.Key{Name: name})
		if err == nil {
			if len(request.Status.Certificate) > 0 {
				return request.Status.Certificate, nil
			}
			for _, c := range request.Status.Conditions {
				if c.Status == corev1.ConditionTrue && (c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed) {
					return nil, fmt.Errorf("request %s: %s: %s: %s", name, c.Type, c.Reason, c.Message)
				}
			}
		}
		select {
		case <-time.After(pause):
		case <-limited.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, errors.Join(fmt.Errorf("nobody approved and signed request %s within %v; an administrator can: kubectl certificate approve %s", name, patience, name), err)
		}
	}
}

// key reads the certificate's key, or makes it.
func (c *Certificate) key() (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(c.KeyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return c.newKey()
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file", c.KeyFile())
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.KeyFile(), err)
	}
	return key, nil
}

func (c *Certificate) newKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	return key, WriteFile(c.KeyFile(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// Keep renews the certificate through api whenever it is due, until ctx ends.
func (c *Certificate) Keep(ctx context.Context, api *client.Client, log *slog.Logger) error {
	for {
		pause := checkEvery
		if c.due(time.Now()) {
			switch err := c.Obtain(ctx, api); {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				log.Error("a certificate is due and was not renewed", "certificate", c.Name, "expires", c.Expires(), "err", err, "again", retryAfter)
				pause = retryAfter
			default:
				log.Info("renewed a certificate", "certificate", c.Name, "expires", c.Expires())
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// WriteFile replaces a file as a whole: after a crash it is the old one or the new one.
func WriteFile(file string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}
