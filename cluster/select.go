// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// selected filters names by patterns as kube-controller-manager's --controllers does: "*" is all, "name" one, "-name"
// not that one; without "*" only what is named runs. Unknown names are errors.
func selected(names, patterns []string) ([]string, error) {
	all := false
	var with, without []string
	for _, p := range patterns {
		name, negative := strings.CutPrefix(p, "-")
		switch {
		case p == "*":
			all = true
			continue
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("controllers: %q is no control loop; there are %s", name, strings.Join(names, ", "))
		case negative:
			without = append(without, name)
		default:
			with = append(with, name)
		}
	}
	var out []string
	for _, n := range names {
		if (all || slices.Contains(with, n)) && !slices.Contains(without, n) {
			out = append(out, n)
		}
	}
	return out, nil
}
