// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api"
	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/discovery"
	"knarr.dev/apiserver"
	"knarr.dev/apiserver/authz"
	"knarr.dev/client"
	"knarr.dev/store/pebble"
)

// startAPI runs an API server with the roles of a cluster until the test ends.
func startAPI(t *testing.T) *apiserver.Server {
	t.Helper()
	st, err := pebble.Open("store", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := authz.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	policy.Extend(Account, Needs())
	s, err := apiserver.New(apiserver.Config{Store: st, Kinds: api.Kinds(), Log: slog.New(slog.DiscardHandler), Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- err
		t.Fatal(err)
	}
	return s
}

// The role is enough for all that the server does, and publishing again writes nothing.
func TestPublishingToAnAPIServer(t *testing.T) {
	s := startAPI(t)
	c := client.New(s.Transport(call.Identity{
		Name:   "system:serviceaccount:" + ServiceNamespace + ":" + Account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + ServiceNamespace, "system:authenticated"},
	}))
	admin := client.New(s.Transport(call.Identity{Name: "admin", Groups: []string{"system:masters"}}))
	versions := func() [2]string {
		key := client.Key{Namespace: ServiceNamespace, Name: ServiceName}
		service, err := client.Of(admin, core.Services).Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		slice, err := client.Of(admin, discovery.EndpointSlices).Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{service.ResourceVersion, slice.ResourceVersion}
	}
	publish := func(endpoint string) {
		if err := Publish(t.Context(), c, netip.MustParseAddr("10.43.0.10"), netip.MustParseAddrPort(endpoint)); err != nil {
			t.Fatal(err)
		}
	}
	publish("10.44.0.1:53")
	before := versions()
	publish("10.44.0.1:53")
	if after := versions(); after != before {
		t.Errorf("written again: %v, before %v", after, before)
	}
	publish("10.44.0.2:5353")
	if after := versions(); after[0] != before[0] || after[1] == before[1] {
		t.Errorf("another endpoint: %v, before %v", after, before)
	}

	address := runAs(t, Config{}, c)
	if got := exchangeWith(t, "udp", address, ask("kube-dns.kube-system.svc.cluster.local", dns.TypeA)); got != "NOERROR 5 IN A 10.43.0.10" {
		t.Error(got)
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.43.0.77", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := client.Of(admin, core.Services).Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	for exchangeWith(t, "udp", address, ask("web.default.svc.cluster.local", dns.TypeA)) != "NOERROR 5 IN A 10.43.0.77" {
		if t.Context().Err() != nil {
			t.Fatal("a new Service has no name")
		}
	}
}
