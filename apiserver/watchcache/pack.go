// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"time"

	"knarr.dev/api/resource"
)

// When objects are packed.
const (
	packAfter   = 8 * time.Second // without a change
	packLeast   = 2 << 20         // bytes of stored form that changed since the last time
	packShare   = 4               // and at least a fourth of all objects
	packPortion = 512             // objects that are replaced in one go
)

// Pack puts the objects side by side in memory once there is something to gain and nobody has written for a while. What requests
// leave in a cache lies scattered among what they only needed themselves, and after a burst of writes holds twice its size.
// Call it now and then, by the goroutine that calls Tidy. It returns the number of objects that it copied.
func (c *Cache) Pack(now time.Time) int {
	c.mu.RLock()
	changes, quiet := c.changes, now.Sub(c.changedAt) >= packAfter
	c.mu.RUnlock()
	objects, mean := c.Size()
	if !quiet || c.cfg.Kind.Custom != nil || int64(changes)*mean < packLeast || changes < objects/packShare {
		return 0
	}
	p := packing{cache: c}
	if !p.entries() {
		return p.n
	}
	p.history()
	c.mu.Lock()
	c.changes -= changes
	close(c.changed) // for those that hold an older snapshot
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.columns.forget()
	c.shared.Forget()
	return p.n
}

// packing is one round of packing.
type packing struct {
	cache  *Cache
	packer resource.Packer
	room   []Entry // of which packed entries are made
	n      int
}

// entry returns a packed copy of an entry. It has no encodings.
func (p *packing) entry(e *Entry) *Entry {
	if len(p.room) == 0 {
		p.room = make([]Entry, packPortion)
	}
	made := &p.room[0]
	p.room = p.room[1:]
	made.Key, made.Object, made.Revision, made.Kind, made.labels = e.Key, p.packer.Pack(e.Object), e.Revision, e.Kind, e.labels
	made.touched.Store(&p.cache.touched)
	p.n++
	return made
}

// entries packs the current entries. It gives up if something is written meanwhile.
func (p *packing) entries() bool {
	old, made := make([]*Entry, 0, packPortion), make([]*Entry, 0, packPortion)
	going := true
	p.cache.newest.Load().Range("", "", func(e *Entry) bool {
		old, made = append(old, e), append(made, p.entry(e))
		if len(old) == packPortion {
			going = p.replace(old, made)
			old, made = old[:0], made[:0]
		}
		return going
	})
	return going && p.replace(old, made)
}

// replace puts packed entries into the place of what they are copies of, unless something was written meanwhile.
func (p *packing) replace(old, made []*Entry) bool {
	c := p.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range old {
		if have, _ := c.tree.Get(e); have != e {
			return false
		}
		c.tree.ReplaceOrInsert(made[i])
	}
	s := *c.newest.Load()
	s.tree = c.tree.Clone()
	c.newest.Store(&s)
	return true
}

// history packs what the history holds.
func (p *packing) history() {
	c := p.cache
	c.mu.RLock()
	events, first := append([]*Event(nil), c.history...), c.first
	c.mu.RUnlock()
	state := c.newest.Load()
	known := map[*Entry]*Entry{}
	entry := func(e *Entry) *Entry {
		if e == nil {
			return nil
		}
		if have := known[e]; have != nil {
			return have
		}
		have := state.Get(e.Key)
		if have == nil || have.Revision != e.Revision {
			have = p.entry(e)
		}
		known[e] = have
		return have
	}
	for i, e := range events {
		events[i] = &Event{Key: e.Key, Revision: e.Revision, Entry: entry(e.Entry), Deleted: e.Deleted, Prev: entry(e.Prev)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range events { // some may have been forgotten meanwhile, and some have come
		if at := first + uint64(i); at >= c.first && at < c.first+uint64(len(c.history)) {
			c.history[at-c.first] = e
		}
	}
}
