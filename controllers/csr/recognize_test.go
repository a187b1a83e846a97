// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package csr

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	asking  = certificatesv1.UsageClientAuth
	server  = certificatesv1.UsageServerAuth
	signs   = certificatesv1.UsageDigitalSignature
	ciphers = certificatesv1.UsageKeyEncipherment
)

func TestRecognize(t *testing.T) {
	type usages []certificatesv1.KeyUsage
	node := pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}
	address := []net.IP{net.IPv4(192, 0, 2, 1)}
	for _, test := range []struct {
		name                          string
		user                          string
		subject                       pkix.Name
		usages                        usages
		ips                           []net.IP
		dns                           []string
		client, serving, proxy, plain bool
	}{
		{name: "node client", user: "system:bootstrap:x", subject: node, usages: usages{asking, signs}, client: true, plain: true},
		{name: "with key encipherment", user: "system:node:a", subject: node, usages: usages{ciphers, asking, signs}, client: true, plain: true},
		{name: "another usage", user: "system:node:a", subject: node, usages: usages{asking, signs, server}},
		{name: "no usage", user: "system:node:a", subject: node, usages: usages{signs}},
		{name: "client with address", user: "system:node:a", subject: node, usages: usages{asking, signs}, ips: address},
		{name: "another group", user: "system:node:a", subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes", "x"}}, usages: usages{asking, signs}, plain: true},
		{name: "superuser", user: "system:node:a", subject: pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}, usages: usages{asking, signs}},
		{name: "serving", user: "system:node:a", subject: node, usages: usages{server, signs}, ips: address, serving: true},
		{name: "serving for another", user: "system:node:b", subject: node, usages: usages{server, signs}, ips: address},
		{name: "serving nobody", user: "system:node:a", subject: node, usages: usages{server, signs}},
		{name: "proxy", user: "system:node:a", subject: pkix.Name{CommonName: "system:kube-proxy"}, usages: usages{asking, signs}, proxy: true, plain: true},
		{name: "somebody's proxy", user: "jane", subject: pkix.Name{CommonName: "system:kube-proxy"}, usages: usages{asking, signs}, plain: true},
	} {
		q := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			Username: test.user, Groups: []string{"system:nodes"}, Usages: test.usages,
		}}
		r := &x509.CertificateRequest{Subject: test.subject, IPAddresses: test.ips, DNSNames: test.dns}
		for what, pair := range map[string][2]bool{
			"node client": {nodeClient(q, r) == nil, test.client}, "node serving": {nodeServing(q, r) == nil, test.serving},
			"proxy client": {proxyClient(q, r) == nil, test.proxy}, "plain client": {plainClient(q, r) == nil, test.plain},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s: is a %s: %v", test.name, what, pair[0])
			}
		}
	}
}

func TestServingNamesMustBeTheNodes(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "a.example.com"},
	}
	for _, test := range []struct {
		dns  []string
		ip   string
		want bool
	}{
		{[]string{"a", "a.example.com"}, "192.0.2.1", true},
		{nil, "192.0.2.2", false},
		{[]string{"b"}, "192.0.2.1", false},
	} {
		r := &x509.CertificateRequest{DNSNames: test.dns, IPAddresses: []net.IP{net.ParseIP(test.ip)}}
		if got := has(node, r); got != test.want {
			t.Errorf("%v %s: %v", test.dns, test.ip, got)
		}
	}
}

func TestRequestsAreKeptForAWhile(t *testing.T) {
	made := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	q := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: made}}
	if got := overAt(q).Sub(made.Time); got != 24*time.Hour {
		t.Errorf("pending: kept for %v", got)
	}
	q.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, LastUpdateTime: made}}
	if got := overAt(q).Sub(made.Time); got != time.Hour {
		t.Errorf("decided: kept for %v", got)
	}
}
