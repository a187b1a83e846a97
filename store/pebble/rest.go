// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"errors"
	"time"

	"knarr.dev/store"
)

// restKey is written once when nothing else is for restAfter. So the revision goes on, and what clients listed at the one before ends with
// the history window, as it does with Kubernetes, whose servers write a key of this name whenever they compact.
const (
	restKey   = "compact_rev_key"
	restAfter = time.Minute
)

// rest writes restKey if nothing was written for restAfter, unless it was the last that was written.
func (s *Store) rest() {
	revision := s.revision.Load()
	if revision == s.rested.Load() || s.options.Now().Sub(time.Unix(s.written.Load(), 0)) < restAfter {
		return
	}
	r, err := s.Write(context.Background(), store.Op{Key: restKey, Value: []byte{}, Expect: store.Any}) // fails when the store is closed
	switch {
	case err == nil:
		s.rested.Store(r.Modified)
	case !errors.Is(err, store.ErrClosed):
		s.options.Log.Error("write to the store at rest", "error", err)
	}
}
