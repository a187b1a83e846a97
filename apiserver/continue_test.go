// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"errors"
	"strconv"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/apiserver"
	"knarr.dev/store"
)

// A token to go on with a list ends when the store forgets the list's revision, even if the watch cache still has that state; with the
// token of the answer the client gets the rest as it is now.
func TestContinueEndsWithHistory(t *testing.T) {
	var st store.Store
	tr := local(startWith(t, func(c *apiserver.Config) { st = c.Store }))
	for _, name := range []string{"a", "b", "c"} {
		create(t, tr, name, nil)
	}
	page := func(token string) (*call.List, error) {
		got, err := tr.Do(t.Context(), &call.Request{Verb: "list", Kind: core.ConfigMaps.Kind, Namespace: "default", Limit: 1, Continue: token})
		if err != nil {
			return nil, err
		}
		return got.List, nil
	}
	first, err := page("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := page(first.Continue); err != nil {
		t.Fatal(err)
	}
	newest, err := strconv.ParseInt(create(t, tr, "d", nil).ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Compact(t.Context(), newest); err != nil {
		t.Fatal(err)
	}
	_, err = page(first.Continue)
	status := &apierrors.StatusError{}
	if !errors.As(err, &status) || !apierrors.IsResourceExpired(err) {
		t.Fatalf("after compaction: %v", err)
	}
	rest, err := page(status.ErrStatus.Continue)
	if err != nil {
		t.Fatal(err)
	}
	if len(rest.Items) != 1 || rest.Items[0].GetName() != "b" || rest.Remaining == nil || *rest.Remaining != 2 {
		t.Errorf("got %v, remaining %v", rest.Items, rest.Remaining)
	}
}
