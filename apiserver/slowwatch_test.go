// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"strconv"
	"strings"
	"testing"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
)

// A watcher that is so slow that the history in memory has moved on gets every change from that of the store.
func TestSlowWatcherReadsOnFromTheStore(t *testing.T) {
	tr := local(start(t))
	made := create(t, tr, "a", nil)
	w, err := tr.Watch(t.Context(), &call.Request{
		Verb: "watch", Kind: core.ConfigMaps.Kind, Namespace: "default", ResourceVersion: made.ResourceVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const changes = 800 // of which the cache keeps 512
	var want []string
	for i := range changes {
		next := configMap("a", map[string]string{"k": strings.Repeat("large ", 7000), "i": strconv.Itoa(i)})
		res, err := tr.Do(t.Context(), &call.Request{Verb: "update", Kind: core.ConfigMaps.Kind, Namespace: "default", Name: "a", Object: next})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, res.Object.GetResourceVersion())
	}
	for i := range want {
		e, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(i, err)
		}
		m, ok := e.Object.(interface{ GetResourceVersion() string })
		if !ok || m.GetResourceVersion() != want[i] {
			t.Fatalf("event %d: %s %T %+v, want revision %s", i, e.Type, e.Object, m, want[i])
		}
	}
}
