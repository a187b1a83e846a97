// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"sync"
	"time"
)

// workers are goroutines that serve streams, one after the other: their stacks have grown by then. Few wait for work, and not for long.
type workers struct {
	mu     sync.Mutex
	idle   []chan *stream
	least  int // how many waited at least since the last trim
	timer  *time.Timer
	armed  bool
	closed bool
}

// run serves s in a goroutine.
func (w *workers) run(s *stream) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		next := w.idle[n-1]
		w.idle = w.idle[:n-1]
		w.least = min(w.least, n-1)
		w.mu.Unlock()
		next <- s
		return
	}
	w.mu.Unlock()
	go w.work(s)
}

func (w *workers) work(s *stream) {
	next := make(chan *stream, 1)
	for s != nil {
		s.serve()
		s = nil
		if w.wait(next) {
			s = <-next
		}
	}
}

// wait notes that a goroutine waits for work, unless enough do.
func (w *workers) wait(next chan *stream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.idle) >= idleWorkers {
		return false
	}
	w.idle = append(w.idle, next)
	if !w.armed {
		w.armed, w.least = true, 0
		if w.timer == nil {
			w.timer = time.AfterFunc(workersInterval, w.trim)
		} else {
			w.timer.Reset(workersInterval)
		}
	}
	return true
}

// trim ends the goroutines that had nothing to do since the last time.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, next := range w.idle[:w.least] {
		close(next)
	}
	n := copy(w.idle, w.idle[w.least:])
	clear(w.idle[n:])
	w.idle = w.idle[:n]
	w.least = n
	if w.armed = n > 0; w.armed {
		w.timer.Reset(workersInterval)
	}
}

// close ends those that wait, and those that are busy once they are done.
func (w *workers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, next := range w.idle {
		close(next)
	}
	w.idle, w.least = nil, 0
}
