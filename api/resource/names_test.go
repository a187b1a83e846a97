// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package resource_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	kinds "knarr.dev/api/resource"
)

func TestNamesAreTheLibrarys(t *testing.T) {
	names := []string{
		"", "a", "a.b", "-a", "a-", "a..b", "a.", ".a", "A", "a/b", "a.b/C", "a/b/c", "/a", "a/", "ü", "a_b", "a.-b", "0", "a/-", "A/b", "a\n",
		strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 127) + "a",
		strings.Repeat("a", 253) + "/" + strings.Repeat("b", 63), strings.Repeat("a", 254) + "/b",
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		name := make([]byte, r.IntN(8))
		for i := range name {
			name[i] = "abzAZ09-._/ ~"[r.IntN(13)]
		}
		names = append(names, string(name))
	}
	for _, name := range names {
		for rule, row := range map[string]struct {
			got  bool
			want []string
		}{
			"label":          {kinds.IsLabel(name), validation.IsDNS1123Label(name)},
			"subdomain":      {kinds.IsSubdomain(name), validation.IsDNS1123Subdomain(name)},
			"qualified name": {kinds.IsQualifiedName(name), validation.IsQualifiedName(name)},
			"annotation":     {kinds.IsAnnotationName(name), validation.IsQualifiedName(strings.ToLower(name))},
			"label value":    {kinds.IsLabelValue(name), validation.IsValidLabelValue(name)},
		} {
			if row.got != (len(row.want) == 0) {
				t.Errorf("%s %q: %v, library: %v", rule, name, row.got, row.want)
			}
		}
	}
}
