// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"knarr.dev/store"
)

// reader is what the database and a snapshot of it have in common.
type reader interface {
	NewIter(*pebble.IterOptions) (*pebble.Iterator, error)
}

// newest returns the newest version of a key, as of a revision unless at is 0; nil if there is none.
func newest(r reader, key string, at int64) (*version, error) {
	upper := append(versionKey(key, 0), 0)
	from := versionKey(key, 1<<62)
	if at > 0 {
		from = versionKey(key, at)
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	if !it.First() {
		return nil, it.Error()
	}
	_, revision, err := splitVersionKey(it.Key())
	if err != nil {
		return nil, err
	}
	v, err := decodeVersion(it.Value(), revision)
	return &v, err
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, q store.Query) (store.Page, error) {
	select {
	case <-s.stop:
		return store.Page{}, store.ErrClosed
	default:
	}
	for {
		// The revision first: everything up to it is in the snapshot then, and what is newer is passed over.
		newest := s.revision.Load()
		if q.Revision > newest {
			return store.Page{}, fmt.Errorf("read %s at %d: newest is %d: %w", q.Key, q.Revision, newest, store.ErrFuture)
		}
		page := store.Page{Revision: newest}
		if q.Revision > 0 {
			page.Revision = q.Revision
		}
		if err := s.readAt(ctx, q, &page); err != nil {
			return store.Page{}, fmt.Errorf("read %s: %w", q.Key, err)
		}
		// The mark is set before history goes, so a mark that is not newer means that everything was there.
		if page.Revision >= s.compacted.Load() {
			return page, nil
		}
		if q.Revision > 0 {
			return store.Page{}, fmt.Errorf("read %s at %d: %w", q.Key, q.Revision, store.ErrCompacted)
		}
	}
}

func (s *Store) readAt(ctx context.Context, q store.Query, page *store.Page) error {
	snapshot := s.db.NewSnapshot()
	defer snapshot.Close()
	if q.Prefix {
		return s.list(ctx, snapshot, q, page)
	}
	return one(snapshot, q, page)
}

func one(r reader, q store.Query, page *store.Page) error {
	v, err := newest(r, q.Key, page.Revision)
	if err != nil || !exists(v) {
		return err
	}
	page.Count = 1
	if !q.CountOnly {
		page.Records = []store.Record{recordOf(q.Key, v)}
	}
	return nil
}

// list walks the versions of all keys with a prefix and takes the newest of each that the page's revision sees.
func (s *Store) list(ctx context.Context, r reader, q store.Query, page *store.Page) error {
	lower := append([]byte{tableVersions}, q.Key...)
	upper := prefixEnd(lower)
	if q.After > q.Key {
		lower = append(versionKey(q.After, 0), 0)
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer it.Close()
	valid := it.First()
	done := "" // the key that was decided last
	for n := 0; valid; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key, revision, err := splitVersionKey(it.Key())
		if err != nil {
			return err
		}
		switch {
		case key == done && n > 0:
			valid = it.SeekGE(append(versionKey(key, 0), 0)) // past its other versions
			continue
		case revision > page.Revision:
			valid = it.SeekGE(versionKey(key, page.Revision))
			continue
		}
		done = key
		v, err := decodeVersion(it.Value(), revision)
		if err != nil {
			return fmt.Errorf("%s at %d: %w", key, revision, err)
		}
		if !v.deleted {
			page.Count++
			take(page, q, key, &v)
		}
		valid = it.Next()
	}
	return it.Error()
}

// take adds a record to a page unless it is before the page or beyond its limit.
func take(page *store.Page, q store.Query, key string, v *version) {
	switch {
	case q.CountOnly || q.After != "" && key <= q.After:
	case q.Limit > 0 && len(page.Records) >= q.Limit:
		page.More = true
	default:
		page.Records = append(page.Records, recordOf(key, v))
	}
}

// Compact implements store.Store.
func (s *Store) Compact(_ context.Context, rev int64) error {
	select {
	case <-s.stop:
		return store.ErrClosed
	default:
	}
	if newest := s.revision.Load(); rev > newest {
		return fmt.Errorf("compact to %d: newest is %d: %w", rev, newest, store.ErrFuture)
	}
	if rev <= s.compacted.Load() {
		return fmt.Errorf("compact to %d: %w", rev, store.ErrCompacted)
	}
	return s.compact(rev)
}

// compact drops the log up to rev and every version that a newer one, not after rev, replaced. It may run beside reads
// and itself: it only ever deletes what nobody may read.
func (s *Store) compact(rev int64) error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	from := s.compacted.Load()
	if rev <= from {
		return nil
	}
	// The mark first, durably: a reader that finds history gone must be able to know why.
	if err := s.db.Set(metaCompacted, binary.BigEndian.AppendUint64(nil, uint64(rev)), pebble.Sync); err != nil {
		return err
	}
	s.compacted.Store(rev)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: logKey(s.swept), UpperBound: logKey(rev + 1)})
	if err != nil {
		return err
	}
	defer it.Close()
	b := s.db.NewBatch()
	defer func() { b.Close() }()
	for valid := it.First(); valid; valid = it.Next() {
		revision := int64(binary.BigEndian.Uint64(it.Key()[1:]))
		c, err := decodeChange(it.Value())
		if err == nil {
			err = s.dropReplaced(b, c, revision)
		}
		if err != nil {
			return err
		}
		// One by one: ranges would pile up in the memtable, and every iterator sorts those. rev's own row stays: it is the
		// newest revision after a restart.
		if revision < rev {
			if err := b.Delete(it.Key(), nil); err != nil {
				return err
			}
		}
		if b.Len() > 1<<20 {
			if err := b.Commit(pebble.NoSync); err != nil {
				return err
			}
			b.Close()
			b = s.db.NewBatch()
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.swept = rev
	return nil
}

// dropReplaced deletes the version that the write at revision replaced, and that write itself if it was a deletion.
func (s *Store) dropReplaced(b *pebble.Batch, c change, revision int64) error {
	if c.short {
		v, err := s.version(c.key, revision)
		if err == store.ErrCompacted {
			return nil // dropped before
		}
		if err != nil {
			return err
		}
		c.previous, c.deleted = v.previous, v.deleted
	}
	if c.previous != 0 {
		if err := b.Delete(versionKey(c.key, c.previous), nil); err != nil {
			return err
		}
	}
	if c.deleted {
		return b.Delete(versionKey(c.key, revision), nil)
	}
	return nil
}
