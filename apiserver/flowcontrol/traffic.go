// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"sync"
	"time"
)

// Reads says whether requests of a verb read and change nothing.
func Reads(verb string) bool {
	switch verb {
	case "get", "list", "watch", "head":
		return true
	}
	return false
}

// traffic is all requests that read, or all that write, of whatever level: how many there were for how long.
type traffic struct {
	mu         sync.Mutex
	at         time.Duration
	count      [2]int     // that are carried out, that wait
	use        [2]gauge   // the same as a part of what there is room for
	reciprocal [2]float64 // of what there is room for
}

const (
	carriedOut = iota
	waitsForTurn
)

func (t *traffic) init(b bounds) {
	for i := range t.use {
		t.use[i] = newGauge(b.kinds)
	}
	t.resize(0, 1, 1)
}

// advance adds the time that has passed; t.mu is held.
func (t *traffic) advance(now time.Duration) {
	if passed := now - t.at; passed > 0 {
		t.at = now
		t.use[carriedOut].add(passed)
		t.use[waitsForTurn].add(passed)
	}
}

// change counts n more requests in a phase.
func (t *traffic) change(now time.Duration, phase, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(now)
	t.count[phase] += n
	t.use[phase].set(float64(t.count[phase]) * t.reciprocal[phase])
}

// resize takes over for how many seats and waiting requests there is room.
func (t *traffic) resize(now time.Duration, seats, places int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(now)
	for i, n := range [2]int{seats, places} {
		t.reciprocal[i] = 1 / float64(max(1, n))
		t.use[i].set(float64(t.count[i]) * t.reciprocal[i])
	}
}

// traffic is where a request counts.
func (c *Controller) traffic(verb string) *traffic {
	if Reads(verb) {
		return &c.kinds[0]
	}
	return &c.kinds[1]
}

// turns is what was seen of virtual time when a request was last served from a queue. S is when a request would start, were all
// queues served at once.
type turns struct {
	served bool
	r      float64 // at that time
	s      float64 // of the request
	heads
}

// heads are the requests that are first in their queues.
type heads struct {
	// next are the least and greatest S; discounted are these without the work of the queues that is in progress.
	next, discounted [2]float64
}

// see takes over one queue, the first one or another.
func (h *heads) see(q *queue, first bool) {
	s, discounted := q.next, q.next-q.guess
	if first {
		h.next, h.discounted = [2]float64{s, s}, [2]float64{discounted, discounted}
		return
	}
	h.next = [2]float64{min(h.next[0], s), max(h.next[1], s)}
	h.discounted = [2]float64{min(h.discounted[0], discounted), max(h.discounted[1], discounted)}
}

// serve notes that the first request of q is served now.
func (t *turns) serve(q *queue, r float64, all heads) {
	t.served, t.r, t.s, t.heads = true, r, q.next, all
}
