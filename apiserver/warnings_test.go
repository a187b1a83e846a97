// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// What is left of many or long warnings, in characters, as kube-apiserver v1.36 was seen to do.
func TestWarningsAreBounded(t *testing.T) {
	var many []string
	for i := range 60 {
		many = append(many, strings.Repeat("y", 200)+fmt.Sprint(i))
	}
	kept := slices.Repeat([]int{201}, 10)
	kept = append(kept, slices.Repeat([]int{202}, 11)...)
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, test := range []struct {
		texts []string
		want  []int
	}{
		{[]string{long(4096)}, []int{4096}},
		{[]string{long(4097)}, []int{256}},
		{[]string{long(3000), strings.Repeat("y", 3000)}, []int{256, 256}},
		{[]string{long(300), strings.Repeat("y", 5000)}, []int{256, 256}},
		{[]string{strings.Repeat("\u00e9", 4090), "a"}, []int{4090, 1}},
		{[]string{"a", "a", "b"}, []int{1, 1}},
		{many, kept},
	} {
		w := httptest.NewRecorder()
		addWarnings(w, test.texts)
		var got []int
		for _, value := range w.Header().Values("Warning") {
			got = append(got, len([]rune(value))-len(`299 - ""`))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%d texts: %v, want %v", len(test.texts), got, test.want)
		}
	}
}
