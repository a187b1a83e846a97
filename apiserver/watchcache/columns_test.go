// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/btree"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
)

func TestRangeLabelledIsRange(t *testing.T) {
	var shared columns
	snapshot := func(n int, events uint64) *Snapshot {
		tree := btree.NewG(treeDegree, less)
		for i := range n {
			m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"bucket": fmt.Sprint(i % 7)}}}
			tree.ReplaceOrInsert(NewEntry(core.ConfigMaps.Kind, fmt.Sprintf("/%c/%03d", 'a'+i%3, i), m, 1))
		}
		return &Snapshot{tree: tree, state: stateID{events: events}, columns: &shared}
	}
	for step, s := range []*Snapshot{snapshot(200, 1), snapshot(300, 2), snapshot(0, 3)} {
		for range 3 { // the tree, the columns made, the columns had
			for _, q := range [][2]string{{"", ""}, {"/b/", ""}, {"/b/", "/b/100"}, {"/d/", ""}, {"/b/", "/c/"}} {
				for _, required := range []Labels{0, bits("bucket", "3"), bits("bucket", "none")} {
					var got, want []string
					s.RangeLabelled(q[0], q[1], required, func(e *Entry) bool { got = append(got, e.Key); return len(got) < 20 })
					s.Range(q[0], q[1], func(e *Entry) bool {
						if e.MayHave(required) {
							want = append(want, e.Key)
						}
						return len(want) < 20
					})
					if !slices.Equal(got, want) {
						t.Errorf("step %d %q: %v, want %v", step, q, got, want)
					}
				}
			}
			shared.tidy()
		}
		if step < 2 && shared.entries == nil {
			t.Error("columns were not kept")
		}
		shared.tidy()
		shared.tidy()
		if shared.entries != nil {
			t.Error("columns were not forgotten")
		}
	}
}
