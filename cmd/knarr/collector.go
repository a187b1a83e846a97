// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How the garbage collector is driven: a busy server may let garbage pile up, which halves the cost of collecting it. A
// process at rest gives the memory back.
const (
	collectEvery = time.Second
	// busyBytes and quietBytes are allocations in one interval above and below which the server is busy or quiet.
	busyBytes  = 48 << 20
	quietBytes = 8 << 20
	// A busy server may keep a 64th of the machine's memory as garbage, but not less than garbageMin nor more than
	// garbageMax bytes, unless as much is alive.
	garbageShare = 64
	garbageMin   = 64 << 20
	garbageMax   = 256 << 20

	percentQuiet = 100 // as the runtime does by default
	percentStart = 400 // in the first interval: what a start allocates is hardly ever garbage
	percentMax   = 1000
)

// collector decides how the garbage collector runs.
type collector struct {
	garbage   uint64 // bytes that may be kept when busy
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
	return int(min(max(c.garbage*100/max(alive, 1), percentQuiet), percentMax))
}

// garbageOf is how much garbage may be kept on a machine with so many bytes of memory.
func garbageOf(memory uint64) uint64 {
	return min(max(memory/garbageShare, garbageMin), garbageMax)
}

// machineMemory is how much memory the process may use at most, in bytes: the machine's, or what the control group of a
// container allows.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	var memory uint64
	if unix.Sysinfo(&info) == nil {
		memory = uint64(info.Totalram) * uint64(info.Unit)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
			memory = min(memory, limit)
		}
	}
	return memory
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
	c := collector{garbage: garbageOf(machineMemory())}
	c.allocated, _ = read()
	percent := math.MinInt
	before := debug.SetGCPercent(percentStart)
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
