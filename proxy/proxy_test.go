// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/client"
	"knarr.dev/proxy/nft"
)

// feed is an API server that tells changes, by resource.
type feed map[string]chan [2]resource.Object

func (f feed) Do(context.Context, *call.Request) (*call.Result, error) {
	return nil, errors.ErrUnsupported
}
func (f feed) Watch(context.Context, *call.Request) (call.Stream, error) {
	return nil, errors.ErrUnsupported
}
func (f feed) View(_ context.Context, r *call.Request) (call.View, error) {
	return feedView(f[r.Kind.Resource]), nil
}

type feedView chan [2]resource.Object

func (v feedView) Get(string, string) (resource.Object, bool) { return nil, false }
func (v feedView) List(string, func(resource.Object) bool)    {}

// Subscribe starts with what is waiting.
func (v feedView) Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error {
	for len(v) > 0 {
		c := <-v
		changed(c[0], c[1])
	}
	synced()
	for {
		select {
		case c := <-v:
			changed(c[0], c[1])
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestRunFollowsTheAPI(t *testing.T) {
	n := newNetwork(t, "10.44.0.11")
	f := feed{"services": make(chan [2]resource.Object, 9), "endpointslices": make(chan [2]resource.Object, 9)}
	s := testService("ClusterIP 10.43.0.9 80")
	first, second := testSlice(corev1.ProtocolTCP, "10.42.0.3@here"), testSlice(corev1.ProtocolTCP, "10.42.0.4@here")
	f["services"] <- [2]resource.Object{s, nil}
	f["endpointslices"] <- [2]resource.Object{first, nil}
	config := Config{
		NodeName: "here", NodeIPs: n.view.Addresses, NetNS: n.node.Path, Table: "knarr-proxy-run",
		PodCIDR: n.view.Pods, NodeCIDR: n.view.Nodes, ServiceCIDR: n.view.Services,
	}
	if err := n.host.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	p := New(config, client.New(f), slog.New(slog.NewTextHandler(t.Output(), nil)))
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	// until asks until the answer is right: changes are told, not awaited.
	until := func(want string) {
		t.Helper()
		for {
			if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got == want {
				return
			}
			if t.Context().Err() != nil {
				t.Fatalf("never %q", want)
			}
		}
	}
	if got := n.ask(n.a, "tcp", "10.43.0.9:80"); got != "b 10.42.0.2" {
		t.Errorf("when ready: %q", got)
	}
	f["endpointslices"] <- [2]resource.Object{second, first}
	until("c 10.42.0.2")
	f["endpointslices"] <- [2]resource.Object{nil, second}
	until("refused")
	f["endpointslices"] <- [2]resource.Object{first, nil}
	until("b 10.42.0.2")
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if tables, err := n.node.Tables(t.Context()); err != nil || len(tables) > 0 {
		t.Errorf("left behind: %v, %v", tables, err)
	}
}

// Slices of other Services, and of none, change nothing.
func TestOnlyWhatChangedIsApplied(t *testing.T) {
	p := New(Config{NodeName: "here"}, nil, slog.New(slog.DiscardHandler))
	recorded := &scripts{}
	p.host = nft.NewHost("t", recorded, slog.New(slog.DiscardHandler))
	p.service(testService("ClusterIP 10.43.0.9 80"), nil)
	if err := p.apply(t.Context(), true); err != nil || recorded.count != 1 {
		t.Fatal(err)
	}
	other := testSlice(corev1.ProtocolTCP, "10.42.0.3@here")
	other.Labels[discoveryv1.LabelServiceName] = "other"
	nobody := testSlice(corev1.ProtocolTCP, "10.42.0.3@here")
	nobody.Labels = nil
	p.slice(other, nil)
	p.slice(nobody, nil)
	p.service(testService("ClusterIP 10.43.0.9 80"), testService("ClusterIP 10.43.0.9 80"))
	if err := p.apply(t.Context(), false); err != nil || recorded.count != 1 {
		t.Errorf("%v, %d scripts", err, recorded.count)
	}
	p.slice(testSlice(corev1.ProtocolTCP, "10.42.0.3@here"), nil)
	if err := p.apply(t.Context(), false); err != nil || recorded.count != 2 {
		t.Errorf("%v, %d scripts", err, recorded.count)
	}
}

type scripts struct{ count int }

func (s *scripts) Apply(context.Context, string) error { s.count++; return nil }

func (s *scripts) Forget(func(front, endpoint netip.AddrPort) bool) error { return nil }
