// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How the garbage collector is driven: a busy server may let garbage pile up, which halves the cost of collecting it. A
// process at rest gives the memory back.
const (
	collectEvery = time.Second
	// busyBytes and quietBytes are allocations in one interval above and below which the server is busy or quiet.
	busyBytes  = 48 << 20
	quietBytes = 8 << 20
	// garbageMax is how much garbage a busy server may keep, in bytes, unless as much is alive.
	garbageMax = 64 << 20

	percentQuiet = 100 // as the runtime does by default
	percentMax   = 400
)

// collector decides how the garbage collector runs.
type collector struct {
	allocated uint64 // bytes, until the last interval
	busy      bool
}

// next is the percentage of garbage to allow after an interval.
func (c *collector) next(allocated, alive uint64) int {
	fresh := allocated - c.allocated
	c.allocated = allocated
	switch {
	case fresh >= busyBytes:
		c.busy = true
	case fresh < quietBytes:
		c.busy = false
	}
	if !c.busy {
		return percentQuiet
	}
	return int(min(max(garbageMax*100/max(alive, 1), percentQuiet), percentMax))
}

// driveCollector drives the garbage collector of the process until ctx ends, then leaves it as it was.
func driveCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" { // somebody else decides
		return
	}
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	read := func() (allocated, alive uint64) {
		metrics.Read(samples)
		return samples[0].Value.Uint64(), samples[1].Value.Uint64()
	}
	var c collector
	c.allocated, _ = read()
	percent := math.MinInt
	before := debug.SetGCPercent(percentQuiet)
	defer debug.SetGCPercent(before)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p := c.next(read()); p != percent {
			debug.SetGCPercent(p)
			percent = p
		}
	}
}
