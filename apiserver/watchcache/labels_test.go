// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// TestRequiredNeverHidesAMatch compares the filter with the selectors themselves.
func TestRequiredNeverHidesAMatch(t *testing.T) {
	var entries []*Entry
	for i := range 500 {
		obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"n": fmt.Sprint(i % 100), "odd": fmt.Sprint(i % 2), "app": "a"}}}
		entries = append(entries, NewEntry(nil, "", obj, 1))
	}
	entries = append(entries, NewEntry(nil, "", &corev1.ConfigMap{}, 1))
	for _, text := range []string{"", "n=7", "n==7,odd=1", "n in (7)", "n in (7,8)", "n!=7", "n notin (7)", "odd", "!odd", "app=a,n notin (1,2)", "n>50"} {
		selector, err := labels.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		required, passed, matched := Required(selector), 0, 0
		for _, e := range entries {
			matches := selector.Matches(labels.Set(e.Object.GetLabels()))
			if matches {
				matched++
			}
			if e.MayHave(required) {
				passed++
			} else if matches {
				t.Fatalf("%q: hid %v", text, e.Object.GetLabels())
			}
		}
		if text == "n=7" && passed > matched+50 {
			t.Errorf("%q let %d of %d pass, %d match", text, passed, len(entries), matched)
		}
	}
	if Required(labels.Nothing()) != 0 || Required(nil) != 0 {
		t.Error("selectors without requirements demand something")
	}
}
