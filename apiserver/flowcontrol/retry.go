// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"sync"
	"time"
)

// maxRetryAfter bounds, in seconds, how much later refused clients are told to try again.
const maxRetryAfter = 64

// Retry says when refused clients shall try again: after a second, and later if the server goes on refusing, as observed in
// Kubernetes. Its zero value is ready.
type Retry struct {
	mu     sync.Mutex
	after  int
	second int64 // the last one in which a request was refused
	since  int64 // the second of the last change
}

// After counts a refusal, and returns after how many seconds the client shall try again.
func (r *Retry) After(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	second := now.Unix()
	quiet := second - r.second - 1 // whole seconds without a refusal
	switch {
	case r.after == 0 || quiet >= int64(r.after):
		r.after, r.since = 1, second
	case quiet > 0:
		r.after, r.since = max(1, r.after-int(quiet)), second
	case second-r.since >= int64(r.after):
		r.after, r.since = min(2*r.after, maxRetryAfter), second
	}
	r.second = second
	return r.after
}
