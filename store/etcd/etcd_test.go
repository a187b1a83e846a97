// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"fmt"
	"testing"

	"knarr.dev/store"
	"knarr.dev/store/etcd/etcdtest"
	"knarr.dev/store/storetest"
)

// open opens a store with a prefix of an etcd.
func open(t *testing.T, server *etcdtest.Server, prefix string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Endpoints: []string{server.Endpoint}, Prefix: prefix, CompactionInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	server, n := etcdtest.Start(t), 0
	storetest.Run(t, storetest.Backend{RealTime: true, Open: func(t *testing.T, _ *storetest.Clock) store.Store {
		n++
		return open(t, server, fmt.Sprintf("/contract-%d", n))
	}})
}

func TestSupportedVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"3.3.27": false, "3.4.30": false, "3.4.31": true, "3.5.0": false, "3.5.12": false, "3.5.13": true, "3.6.0": true, "3.6.0-rc.1": true,
		"4.0.0": true, "2.3.8": false, "main": true,
	} {
		if supported(version) != want {
			t.Errorf("%s: %v", version, !want)
		}
	}
}
