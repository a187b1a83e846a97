// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	"knarr.dev/api/core"
	"knarr.dev/client"
)

// A server that listens on loopback alone names this machine's address, as kube-apiserver does: endpoints may not be on loopback, and
// clients expect the endpoints of default/kubernetes to be there.
func TestLoopbackServerHasEndpoints(t *testing.T) {
	address, ok := MachineAddress("")
	if !ok {
		t.Skip("this machine has no address but loopback")
	}
	c := start(t, func(c *Config) { c.NoSockets, c.Listen = false, "127.0.0.1:0" })
	got, err := client.Of(c.Client(Administrator()), core.Endpoints).Get(t.Context(), client.Key{Namespace: "default", Name: "kubernetes"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Subsets) != 1 || got.Subsets[0].Addresses[0].IP != address.String() {
		t.Errorf("got %v, want %v", got.Subsets, address)
	}
}
