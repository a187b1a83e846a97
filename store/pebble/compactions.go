// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// grantAgain is how long a compaction that was refused waits at most until it is thought about again.
const grantAgain = 100 * time.Millisecond

// compactions decides when Pebble may compact: whenever fewer compactions run than Pebble itself allows. Pebble's own scheduler
// decides the same but looks ten times a second, which was most of what an idle server did; this one looks when
// something changed, and by time only while a compaction waits.
type compactions struct {
	db   pebble.DBForCompaction
	poke chan struct{} // has room for one
	stop chan struct{} // closed by Unregister
	done chan struct{} // closed when the granting goroutine ended

	mu      sync.Mutex
	running int
	waiting bool // a compaction was refused, and Pebble has not said since that it wants none
}

func newCompactions() *compactions {
	return &compactions{poke: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
}

// Register implements pebble.CompactionScheduler.
func (c *compactions) Register(_ int, db pebble.DBForCompaction) {
	c.db = db
	go c.run()
}

// Unregister implements pebble.CompactionScheduler: no call of the database goes on when it returns.
func (c *compactions) Unregister() {
	close(c.stop)
	<-c.done
}

// TrySchedule implements pebble.CompactionScheduler.
func (c *compactions) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	select {
	case <-c.stop:
		return false, nil
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.db.GetAllowedWithoutPermission() > c.running {
		c.running++
		return true, c
	}
	c.waiting = true
	c.look()
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (c *compactions) UpdateGetAllowedWithoutPermission() { c.look() }

// Started, MeasureCPU, CumulativeStats and Done implement pebble.CompactionGrantHandle.
func (c *compactions) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (c *compactions) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (c *compactions) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle.
func (c *compactions) Done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	c.look()
}

// look has the granting goroutine look what may run.
func (c *compactions) look() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// run grants until Unregister. It alone calls Schedule, so nothing is granted twice.
func (c *compactions) run() {
	defer close(c.done)
	again := time.NewTimer(grantAgain)
	defer again.Stop()
	for {
		select {
		case <-c.poke:
		case <-again.C:
		case <-c.stop:
			return
		}
		again.Stop()
		if c.grant() {
			again.Reset(grantAgain)
		}
	}
}

// grant lets as many compactions run as may. It says whether one may still be waiting.
func (c *compactions) grant() bool {
	for {
		c.mu.Lock()
		if c.db.GetAllowedWithoutPermission() <= c.running {
			defer c.mu.Unlock()
			return c.waiting
		}
		c.running++ // for the one that may be granted now; whatever is refused for its sake makes another round
		c.mu.Unlock()
		wants, _ := c.db.GetWaitingCompaction()
		if wants && c.db.Schedule(c) {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
		c.waiting = wants
		return wants
	}
}
