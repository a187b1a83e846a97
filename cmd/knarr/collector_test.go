// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestCollectorFollowsLoad(t *testing.T) {
	const mib = 1 << 20
	c := collector{garbage: 64 * mib}
	var allocated uint64
	for i, step := range []struct {
		fresh, alive uint64
		percent      int
	}{
		{1 * mib, 10 * mib, percentQuiet},
		{100 * mib, 5 * mib, percentMax},
		{20 * mib, 32 * mib, 200}, // still busy
		{100 * mib, 500 * mib, percentQuiet},
		{1 * mib, 10 * mib, percentQuiet},
		{1 * mib, 10 * mib, percentQuiet},
	} {
		allocated += step.fresh
		if percent := c.next(allocated, step.alive); percent != step.percent {
			t.Errorf("step %d: %d, want %d", i, percent, step.percent)
		}
	}
}

func TestGarbageFollowsTheMachine(t *testing.T) {
	for _, tt := range []struct{ memory, want uint64 }{{0, garbageMin}, {1 << 30, garbageMin}, {8 << 30, 128 << 20}, {64 << 30, garbageMax}} {
		if got := garbageOf(tt.memory); got != tt.want {
			t.Errorf("%d: %d, want %d", tt.memory, got, tt.want)
		}
	}
	if machineMemory() == 0 {
		t.Error("the machine's memory is not known")
	}
}
