// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sort"
	"strings"
	"sync"
)

// stateID tells states of a cache apart: two with the same have the same objects.
type stateID struct{ epoch, events uint64 }

// columns has the labels of all objects side by side, for the state that was listed by label last: looking through them reads
// 8 bytes an object, where the tree costs three misses of the processor's cache. They are made when a state is listed for the
// second time, so that they cost nothing where every list sees another state.
type columns struct {
	mu      sync.Mutex
	asked   stateID
	some    bool // asked is one
	state   stateID
	labels  []Labels
	entries []*Entry // in the order of keys
	used    bool     // since the last tidy
}

// of are the columns of a snapshot; nil if they are not worth making yet.
func (c *columns) of(s *Snapshot) ([]Labels, []*Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || c.state != s.state {
		if !c.some || c.asked != s.state {
			c.asked, c.some = s.state, true
			return nil, nil
		}
		c.labels, c.entries = make([]Labels, 0, s.Len()), make([]*Entry, 0, s.Len())
		s.Range("", "", func(e *Entry) bool {
			c.labels, c.entries = append(c.labels, e.labels), append(c.entries, e)
			return true
		})
		c.state = s.state
	}
	c.used = true
	return c.labels, c.entries
}

// tidy forgets columns that nobody has used since the call before.
func (c *columns) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.used {
		c.labels, c.entries, c.some = nil, nil, false
	}
	c.used = false
}

// forget forgets the columns.
func (c *columns) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.labels, c.entries, c.some = nil, nil, false
}

// RangeLabelled is Range for the entries that may have all of the labels; it may call each for others too.
func (s *Snapshot) RangeLabelled(prefix, after string, required Labels, each func(*Entry) bool) {
	var all []Labels
	var entries []*Entry
	if required != 0 && s.columns != nil {
		all, entries = s.columns.of(s)
	}
	if entries == nil {
		s.Range(prefix, after, func(e *Entry) bool { return !e.MayHave(required) || each(e) })
		return
	}
	from := prefix
	if after >= from {
		from = after + "\x00"
	}
	for i := sort.Search(len(entries), func(i int) bool { return entries[i].Key >= from }); i < len(all); i++ {
		if all[i]&required != required {
			continue
		}
		if e := entries[i]; !strings.HasPrefix(e.Key, prefix) || !each(e) {
			return
		}
	}
}
