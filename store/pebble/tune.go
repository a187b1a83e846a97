// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// How Pebble is set up. Objects are a few KB, much like each other, written once and hardly ever read back: the watch cache
// has them. So what counts is that compactions move keys and not values, and that a block holds many values, which then
// compress to a twentieth. test/bench/README.md has the figures.
const (
	cacheBytes    = 8 << 20
	memTableBytes = 8 << 20 // grows to this; a new store begins with 256 KiB
	blockBytes    = 64 << 10
	// separateBytes is the least size of a value that is kept in a blob file, away from its key.
	separateBytes = 256
	// Blob files are written again when so much of them is garbage, once they are older than most of the history.
	blobGarbage = 0.3
	blobAge     = 2 * time.Minute
	blobDepth   = 40 // how many blob files the values of overlapping tables may be in before a compaction moves values too
	// Compactions begin at so many tables above each other in L0, and writes wait at so many: hardly anything reads from disk, so
	// that it may be more than Pebble's 4 and 12. Fewer and larger compactions move each key less often.
	beginTables = 32
	stopTables  = 96
)

// tune returns Pebble's options; free releases what they hold once the database is open or could not be opened.
func tune(o *Options) (tuning *pebble.Options, free func()) {
	cache := pebble.NewCache(cacheBytes)
	tuning = &pebble.Options{
		FS: o.FS, Cache: cache, MemTableSize: memTableBytes, MemTableStopWritesThreshold: 4, MaxOpenFiles: 256,
		L0CompactionThreshold: beginTables, L0StopWritesThreshold: stopTables, Logger: quiet{o.Log}, FormatMajorVersion: pebble.FormatNewest,
	}
	if o.memTable != 0 {
		tuning.MemTableSize = o.memTable
	}
	for i := range tuning.Levels {
		tuning.Levels[i].BlockSize = blockBytes
		tuning.Levels[i].IndexBlockSize = 4 << 10
		tuning.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.MinLZCompression }
	}
	tuning.Experimental.CompactionScheduler = newCompactions()
	tuning.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		return pebble.ValueSeparationPolicy{
			Enabled: true, MinimumSize: separateBytes, MaxBlobReferenceDepth: blobDepth,
			RewriteMinimumAge: blobAge, TargetGarbageRatio: blobGarbage,
		}
	}
	return tuning, cache.Unref
}

// quiet passes what Pebble says on as debug lines; its fatal errors stop the process, as they must.
type quiet struct{ log *slog.Logger }

func (q quiet) Infof(format string, args ...any) {}

func (q quiet) Errorf(format string, args ...any) {
	q.log.Error("storage engine", "message", fmt.Sprintf(format, args...))
}

func (q quiet) Fatalf(format string, args ...any) {
	panic("storage engine: " + fmt.Sprintf(format, args...))
}
