// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
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
	restProgram  = 4 * time.Second // what came to rest has still run a last time: the program once more
	restAgain    = 22 * time.Second
	restShare    = 20 // rest is when the process uses less than a 20th of a core
)

// rests are the times at rest after which memory is given back.
func rests() []time.Duration { return []time.Duration{0, restProgram, restAgain} }

// keepSmall gives back memory at rest until ctx ends.
func keepSmall(ctx context.Context) {
	tick := time.NewTicker(restInterval)
	defer tick.Stop()
	used, pending := processTime(), rests()
	var resting time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := processTime()
		if now-used > restInterval/restShare {
			resting, pending = 0, rests()
		} else if len(pending) > 0 && resting >= pending[0] {
			if pending[0] != restProgram {
				debug.FreeOSMemory()
			}
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
		line := lines.Bytes()
		if len(line) == 0 || line[0] >= 'A' && line[0] <= 'Z' { // Rss:    12 kB
			if amount, ok := bytes.CutPrefix(line, []byte("Anonymous:")); ok && end > begin && string(bytes.TrimSpace(amount)) == "0 kB" {
				divide(begin, end) // nothing in it was changed
				_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
			}
			continue
		}
		begin, end = 0, 0
		f := strings.Fields(string(line)) // 00400000-01ec2000 r-xp 00000000 fe:00 1234 /path
		if len(f) >= 6 && strings.Join(f[5:], " ") == program && !strings.Contains(f[1], "w") {
			from, to, _ := strings.Cut(f[0], "-")
			begin, _ = strconv.ParseUint(from, 16, 64)
			end, _ = strconv.ParseUint(to, 16, 64)
		}
	}
}

// programPart bounds what the system maps at a time, in bytes.
const programPart = 128 << 10

// divide makes many mappings of one. When a page is needed, the system maps the whole folio in which its cache has the page, if
// that fits into the mapping; those of a program that was just built have up to 2 MiB, and neither MADV_RANDOM nor
// MADV_NOHUGEPAGE changes it. Every other part is left out of core dumps, where it would not be anyway.
func divide(begin, end uint64) {
	for at := (begin + programPart - 1) / programPart * programPart; at < end; at += programPart {
		if at/programPart%2 == 0 {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(at), uintptr(min(programPart, end-at)), unix.MADV_DONTDUMP)
		}
	}
}
