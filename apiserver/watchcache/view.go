// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"

	"knarr.dev/api/resource"
)

// View is a call.View of a cache: all objects of a kind, or those that a filter lets through.
type View struct {
	cache *Cache
	kind  *resource.Kind
	match func(resource.Object) bool
}

// View returns a view of the cache in the form of kind. match may be nil.
func (c *Cache) View(kind *resource.Kind, match func(resource.Object) bool) *View {
	return &View{cache: c, kind: kind, match: match}
}

// object is the object of e in the view's form, or nil if the filter keeps it out.
func (v *View) object(e *Entry) resource.Object {
	if e == nil {
		return nil
	}
	f, err := e.As(v.kind)
	if err != nil || v.match != nil && !v.match(f.Object) {
		return nil
	}
	return f.Object
}

// Get implements call.View.
func (v *View) Get(namespace, name string) (resource.Object, bool) {
	o := v.object(v.cache.Newest().Get(v.cache.cfg.Kind.Key(namespace, name)))
	return o, o != nil
}

// List implements call.View.
func (v *View) List(namespace string, each func(resource.Object) bool) {
	v.cache.Newest().Range(v.cache.cfg.Kind.Key(namespace, ""), "", func(e *Entry) bool {
		if o := v.object(e); o != nil {
			return each(o)
		}
		return true
	})
}

// Subscribe implements call.View. A subscriber that falls behind the history is told the difference instead.
func (v *View) Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error {
	var known *Snapshot
	for {
		now := v.cache.Newest()
		w, err := v.cache.Watch(now.Revision)
		if errors.Is(err, ErrGone) {
			continue // a newer snapshot was published meanwhile
		}
		if err != nil {
			return err
		}
		v.difference(known, now, changed)
		if known == nil {
			synced()
		}
		known = now
		for err == nil {
			var events []*Event
			var more <-chan struct{}
			if events, more, err = w.Poll(); err != nil {
				break
			}
			v.tell(events, changed)
			known = v.cache.told(known, events, w.Revision()) // of the same revision, too: the objects may have been packed
			if len(events) == 0 {
				select {
				case <-ctx.Done():
					err = ctx.Err()
				case <-more:
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, ErrGone) {
			return err
		}
	}
}

func (v *View) tell(events []*Event, changed func(obj, old resource.Object)) {
	for _, e := range events {
		old := v.object(e.Prev)
		if e.Deleted {
			if old != nil {
				changed(nil, old)
			}
			continue
		}
		if obj := v.object(e.Entry); obj != nil || old != nil {
			changed(obj, old)
		}
	}
}

// difference tells what changed from one snapshot, which may be nil, to a newer one.
func (v *View) difference(from, to *Snapshot, changed func(obj, old resource.Object)) {
	if from != nil {
		from.Range("", "", func(e *Entry) bool {
			if old := v.object(e); old != nil && v.object(to.Get(e.Key)) == nil {
				changed(nil, old)
			}
			return true
		})
	}
	to.Range("", "", func(e *Entry) bool {
		var before *Entry
		if from != nil {
			before = from.Get(e.Key)
		}
		if before == nil || before.Revision != e.Revision {
			if obj := v.object(e); obj != nil {
				changed(obj, v.object(before))
			}
		}
		return true
	})
}
