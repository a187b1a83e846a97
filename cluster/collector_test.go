// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import "testing"

func TestCollectorFollowsLoad(t *testing.T) {
	const mib = 1 << 20
	var c collector
	var allocated uint64
	for i, step := range []struct {
		fresh, alive uint64
		percent      int
		release      bool
	}{
		{1 * mib, 10 * mib, percentQuiet, false},
		{100 * mib, 10 * mib, percentMax, false},
		{20 * mib, 32 * mib, 200, false}, // still busy
		{100 * mib, 500 * mib, percentQuiet, false},
		{1 * mib, 10 * mib, percentQuiet, true},
		{1 * mib, 10 * mib, percentQuiet, false},
	} {
		allocated += step.fresh
		percent, release := c.next(allocated, step.alive)
		if percent != step.percent || release != step.release {
			t.Errorf("step %d: %d %v, want %d %v", i, percent, release, step.percent, step.release)
		}
	}
}
