// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestDecide(t *testing.T) {
	for _, test := range []struct {
		owners []state
		want   decision
	}{
		{[]state{solid}, keep},
		{[]state{absent}, deleteBackground},
		{[]state{absent, absent}, deleteBackground},
		{[]state{solid, absent}, release},
		{[]state{solid, waiting}, release},
		{[]state{waiting}, deleteForeground},
		{[]state{waiting, absent}, deleteForeground},
	} {
		if got := decide(test.owners); got != test.want {
			t.Errorf("%v: got %v, want %v", test.owners, got, test.want)
		}
	}
}

func TestGraph(t *testing.T) {
	g := graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]struct{}{}}
	child := func(owners ...types.UID) *node {
		n := &node{uid: "child"}
		for _, o := range owners {
			n.owners = append(n.owners, metav1.OwnerReference{UID: o})
		}
		return n
	}
	if got := g.put(child("a", "b")); !slices.Equal(got, []types.UID{"child"}) {
		t.Errorf("a new child concerns %v", got)
	}
	g.put(&node{uid: "a"})
	if _, dependents := g.look("a"); len(dependents) != 1 || dependents[0].uid != "child" {
		t.Errorf("dependents of a: %v", dependents)
	}
	if got := g.put(child("b")); !slices.Contains(got, "a") {
		t.Errorf("letting go of an owner concerns %v", got)
	}
	if got := g.remove("a"); len(got) != 0 {
		t.Errorf("removing a concerns %v", got)
	}
	if got := g.remove("child"); !slices.Equal(got, []types.UID{"b"}) {
		t.Errorf("removing the child concerns %v", got)
	}
	if len(g.dependents) != 0 || len(g.nodes) != 0 {
		t.Errorf("left over: %v, %v", g.dependents, g.nodes)
	}
}
