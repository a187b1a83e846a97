// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// Names of the identities that certificates are for.
const (
	nodePrefix = "system:node:"
	nodesGroup = "system:nodes"
	proxyName  = "system:kube-proxy"
)

// longest is how long a certificate lasts at most.
const longest = 365 * 24 * time.Hour

// nodeOf is the node of an identity, or empty.
func nodeOf(user string) string {
	name, ok := strings.CutPrefix(user, nodePrefix)
	if !ok {
		return ""
	}
	return name
}

// allowedUsages says that usages has all that is required, and nothing but that and "key encipherment".
func allowedUsages(usages []certificatesv1.KeyUsage, required certificatesv1.KeyUsage) error {
	for _, want := range []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, required} {
		if !slices.Contains(usages, want) {
			return fmt.Errorf("usages lack %q", want)
		}
	}
	for _, u := range usages {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && u != required {
			return fmt.Errorf("usage %q is not allowed", u)
		}
	}
	return nil
}

func ofNode(r *x509.CertificateRequest) error {
	if !slices.Equal(r.Subject.Organization, []string{nodesGroup}) {
		return fmt.Errorf("organization needs to be exactly %s", nodesGroup)
	}
	if nodeOf(r.Subject.CommonName) == "" {
		return fmt.Errorf("common name needs to begin with %s", nodePrefix)
	}
	return nil
}

func noAlternatives(r *x509.CertificateRequest) error {
	if len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
		return errors.New("subject alternative names are not allowed")
	}
	return nil
}

// nodeClient says why a request is not for the client certificate of a node.
func nodeClient(q *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) error {
	return errors.Join(ofNode(r), noAlternatives(r), allowedUsages(q.Spec.Usages, certificatesv1.UsageClientAuth))
}

// nodeServing says why a request is not for the serving certificate of the node that asks.
func nodeServing(q *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) error {
	problems := []error{ofNode(r), allowedUsages(q.Spec.Usages, certificatesv1.UsageServerAuth)}
	if len(r.DNSNames)+len(r.IPAddresses) == 0 {
		problems = append(problems, errors.New("a DNS name or an IP address is needed"))
	}
	if len(r.EmailAddresses)+len(r.URIs) > 0 {
		problems = append(problems, errors.New("email addresses and URIs are not allowed"))
	}
	if q.Spec.Username != r.Subject.CommonName || !slices.Contains(q.Spec.Groups, nodesGroup) {
		problems = append(problems, errors.New("only a node may ask, and for itself"))
	}
	return errors.Join(problems...)
}

// has says that the names and addresses of a request are those of the node.
func has(node *corev1.Node, r *x509.CertificateRequest) bool {
	names, ips := []string{node.Name}, []net.IP(nil)
	for _, a := range node.Status.Addresses {
		if ip := net.ParseIP(a.Address); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, a.Address)
		}
	}
	for _, name := range r.DNSNames {
		if !slices.Contains(names, name) {
			return false
		}
	}
	for _, ip := range r.IPAddresses {
		if !slices.ContainsFunc(ips, ip.Equal) {
			return false
		}
	}
	return true
}

// plainClient says why a request is not for a client certificate of the general kind.
func plainClient(q *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) error {
	if slices.Contains(r.Subject.Organization, "system:masters") {
		return errors.New("organization system:masters is not allowed")
	}
	return errors.Join(noAlternatives(r), allowedUsages(q.Spec.Usages, certificatesv1.UsageClientAuth))
}

// proxyClient says why a request is not a node's for the client certificate of its service proxy.
func proxyClient(q *certificatesv1.CertificateSigningRequest, r *x509.CertificateRequest) error {
	problems := []error{plainClient(q, r)}
	if r.Subject.CommonName != proxyName || len(r.Subject.Organization) > 0 {
		problems = append(problems, fmt.Errorf("the subject needs to be %s alone", proxyName))
	}
	if nodeOf(q.Spec.Username) == "" || !slices.Contains(q.Spec.Groups, nodesGroup) {
		problems = append(problems, errors.New("only a node may ask"))
	}
	return errors.Join(problems...)
}
