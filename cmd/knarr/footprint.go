// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A process that comes to rest after work, of which starting is one kind, gives back the memory that only the work
// needed: at once, and again when caches have dropped what nobody reads any more.
const (
	restInterval = 2 * time.Second
	restAgain    = 22 * time.Second
	restShare    = 20 // rest is when the process uses less than a 20th of a core
)

// keepSmall gives back memory at rest until ctx ends.
func keepSmall(ctx context.Context) {
	tick := time.NewTicker(restInterval)
	defer tick.Stop()
	used, pending := processTime(), []time.Duration{0, restAgain}
	var resting time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := processTime()
		if now-used > restInterval/restShare {
			resting, pending = 0, []time.Duration{0, restAgain}
		} else if len(pending) > 0 && resting >= pending[0] {
			debug.FreeOSMemory()
			releaseProgram()
			pending = pending[1:]
			now = processTime()
		}
		used, resting = now, resting+restInterval
	}
}

// processTime is the processor time that the process has used.
func processTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// releaseProgram lets go of the pages of the program itself, half of which only ran once. The system maps those that are
// still needed again, from its cache of files.
func releaseProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	var begin, end uint64 // of the mapping whose lines are read
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 5 && !strings.HasSuffix(f[0], ":"): // 00400000-01ec2000 r-xp 00000000 fe:00 1234 /path
			begin, end = 0, 0
			if len(f) >= 6 && strings.Join(f[5:], " ") == program && !strings.Contains(f[1], "w") {
				from, to, _ := strings.Cut(f[0], "-")
				begin, _ = strconv.ParseUint(from, 16, 64)
				end, _ = strconv.ParseUint(to, 16, 64)
			}
		case len(f) == 3 && f[0] == "Anonymous:" && f[1] == "0" && end > begin: // nothing in it was changed
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
		}
	}
}
