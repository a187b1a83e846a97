// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import "testing"

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		text, signal string
		total, want  uint64
		problem      string
	}{
		{text: DefaultEvictionHard, signal: signalMemory, total: 1 << 40, want: 100 << 20},
		{text: DefaultEvictionHard, signal: signalDisk, total: 1000, want: 50},
		{text: "memory.available<0.5%, nodefs.available<1Gi", signal: signalMemory, total: 1000, want: 5},
		{text: "memory.available<0.5%, nodefs.available<1Gi", signal: signalDisk, total: 5, want: 1 << 30},
		{text: "memory.available<1Mi", signal: signalDisk, total: 1000, want: 0},
		{text: "memory.available", problem: `"memory.available" is not SIGNAL<VALUE`},
		{text: "", problem: `"" is not SIGNAL<VALUE`},
		{text: "memory<1", problem: `"memory": unknown signal, one of memory.available, nodefs.available, nodefs.inodesFree`},
		{text: "nodefs.available<1%,nodefs.available<1Gi", problem: `"nodefs.available" is given twice`},
		{text: "nodefs.available<101%", problem: `nodefs.available: "101%" is not a percentage from 0% to 100%`},
		{text: "nodefs.available<NaN%", problem: `nodefs.available: "NaN%" is not a percentage from 0% to 100%`},
		{text: "nodefs.available<-1Gi", problem: `nodefs.available: "-1Gi" is not a quantity`},
	} {
		thresholds, err := parseThresholds(c.text)
		if err != nil || c.problem != "" {
			if err == nil || err.Error() != c.problem {
				t.Errorf("%s: %v, not %q", c.text, err, c.problem)
			}
			continue
		}
		if got := thresholds[c.signal].of(c.total); got != c.want {
			t.Errorf("%s of %d: %s %d, not %d", c.text, c.total, c.signal, got, c.want)
		}
	}
}
