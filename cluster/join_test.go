// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/core"
	"knarr.dev/client"
	"knarr.dev/cluster"
	"knarr.dev/cluster/clustertest"
	"knarr.dev/cluster/internal/enroll"
)

// TestEnroll goes the way of a machine that joins, up to its certificates, over real connections.
func TestEnroll(t *testing.T) {
	c := clustertest.New(t).Cluster()
	admin := c.Client(cluster.Administrator())
	token, err := cluster.CreateToken(t.Context(), admin, cluster.NewToken(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := enroll.Discover(t.Context(), enroll.Cluster{Server: c.URL(), TokenID: token.ID, TokenSecret: token.Secret})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(config client.HTTPConfig) *client.Client {
		t.Helper()
		config.Server, config.CA = c.URL(), ca
		transport, err := client.NewHTTP(config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(transport.Close)
		return client.New(transport)
	}
	dir := t.TempDir()
	login := &enroll.Certificate{
		Dir: dir, Name: "node", Node: "edge", Signer: certificatesv1.KubeAPIServerClientKubeletSignerName, Usage: certificatesv1.UsageClientAuth,
		CommonName: "system:node:edge", Organizations: []string{"system:nodes"},
	}
	if err := login.Obtain(t.Context(), dial(client.HTTPConfig{Token: token.ID + ".0000000000000000"})); !apierrors.IsUnauthorized(err) {
		t.Errorf("a wrong token: %v", err)
	}
	joining := dial(client.HTTPConfig{Token: token.String()})
	if err := login.Ensure(t.Context(), joining); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Of(joining, core.Secrets).Get(t.Context(), client.Key{Namespace: "kube-system", Name: "bootstrap-token-" + token.ID}); !apierrors.IsForbidden(err) {
		t.Errorf("a token reads secrets: %v", err)
	}

	// From here on as the node, even if the token is gone.
	if err := cluster.DeleteToken(t.Context(), admin, token.String()); err != nil {
		t.Fatal(err)
	}
	node := dial(client.HTTPConfig{CertFile: login.CertFile(), KeyFile: login.KeyFile()})
	before, key := read(t, login.CertFile()), read(t, login.KeyFile())
	if err := login.Obtain(t.Context(), node); err != nil {
		t.Fatalf("renewal: %v", err)
	}
	if bytes.Equal(read(t, login.CertFile()), before) || !bytes.Equal(read(t, login.KeyFile()), key) {
		t.Error("a renewal makes a new certificate for the same key")
	}
	nodes := client.Of(node, core.Nodes)
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge"}}); err != nil {
		t.Fatal(err)
	}
	addresses := []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`)
	if _, err := nodes.Patch(t.Context(), client.Key{Name: "edge"}, types.MergePatchType, addresses, "status"); err != nil {
		t.Fatal(err)
	}
	for _, certificate := range []*enroll.Certificate{
		{
			Name: "serving", Signer: certificatesv1.KubeletServingSignerName, Usage: certificatesv1.UsageServerAuth, CommonName: "system:node:edge",
			Organizations: []string{"system:nodes"}, Names: []string{"edge"}, IPs: []net.IP{net.IPv4(192, 0, 2, 7)},
		},
		{Name: "proxy", Signer: certificatesv1.KubeAPIServerClientSignerName, Usage: certificatesv1.UsageClientAuth, CommonName: "system:kube-proxy"},
	} {
		certificate.Dir, certificate.Node = dir, "edge"
		if err := certificate.Ensure(t.Context(), node); err != nil {
			t.Error(err)
		}
	}
	other := &enroll.Certificate{
		Dir: t.TempDir(), Name: "node", Node: "edge", Signer: certificatesv1.KubeAPIServerClientSignerName, Usage: certificatesv1.UsageClientAuth,
		CommonName: "admin", Organizations: []string{"system:masters"},
	}
	if err := other.Obtain(t.Context(), node); err == nil || !strings.Contains(err.Error(), "system:masters") {
		t.Errorf("a node became administrator: %v", err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
