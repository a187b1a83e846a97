// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"sync"
	"time"
)

// Bounds of what refused clients are told: in seconds; and how many refusals in a second mean that they come too soon.
const (
	maxRetryAfter = 64
	busySecond    = 3
)

// Retry says when refused clients shall try again: after a second, and later if the server goes on refusing many, as observed in
// Kubernetes. Its zero value is ready.
type Retry struct {
	mu     sync.Mutex
	after  int
	second int64 // the last one in which a request was refused, and how many were
	count  int
	since  int64 // the second of the last change
}

// After counts a refusal, and returns after how many seconds the client shall try again.
func (r *Retry) After(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	second := now.Unix()
	if r.after == 0 {
		r.after, r.since = 1, second
	}
	if second > r.second {
		busy := r.count >= busySecond && second == r.second+1
		if over := second - r.since - int64(r.after); over >= 0 {
			if busy {
				r.after = min(2*r.after, maxRetryAfter)
			} else {
				r.after = int(max(1, int64(r.after)-1-over))
			}
			r.since = second
		}
		r.second, r.count = second, 0
	}
	r.count++
	return r.after
}
