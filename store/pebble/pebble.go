// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pebble is the embedded store: store.Store on the Pebble storage engine.
//
// One sequencer goroutine gives revisions: it takes all writes that wait, checks their conditions, commits them as one
// synced batch (group commit), publishes their events to watches in order and only then acknowledges them. A writer that
// is alone takes its place for one batch. What was acknowledged survives a crash; a batch is there whole or not at all.
// Reads never wait for writes.
//
// docs/formats/store.md specifies what is on disk. Start with Open.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"knarr.dev/store"
	"knarr.dev/store/internal/feed"
)

// Limits of the store.
const (
	maxBatchOps   = 512
	maxBatchBytes = 8 << 20
	maxWaiting    = 4096 // writes in the queue
)

// Options say how a store behaves; the zero value is usable.
type Options struct {
	// FS is the file system; the disk if nil.
	FS vfs.FS
	// HistoryWindow is how long versions that were replaced stay readable; 5 minutes if 0.
	HistoryWindow time.Duration
	// First is the newest revision of a store that is made; 1 if 0. A restored store goes on from that of the backup.
	First int64
	// Log is told what a person would act on; nil is silence.
	Log *slog.Logger
	// Now is the clock of TTLs and history; time.Now if nil.
	Now func() time.Time

	memTable uint64 // bytes; tests make it small
	manual   bool   // Now is not the time that timers know
}

// Store is an open store.
type Store struct {
	db      *pebble.DB
	options Options

	writes chan *write
	stop   chan struct{} // closed by Close
	done   chan struct{} // closed when the sequencer ended
	once   sync.Once

	// revision is the newest published one; compacted the newest that is forgotten.
	revision, compacted atomic.Int64

	written atomic.Int64 // when something was written last, in Unix seconds
	rested  atomic.Int64 // the revision at which the store came to rest
	feeding atomic.Bool  // the feed has events in memory, as far as is known

	feed *feed.Feed
	// committing orders batches; it guards index and is held longest by a sync. alone says that the last batch was of one write.
	committing sync.Mutex
	index      index
	alone      atomic.Bool

	beside sync.WaitGroup // what runs beside the sequencer

	compacting sync.Mutex // serialises compactions
	// swept is the revision below which no row of the log is left, as far as is known; compacting guards it.
	swept int64
	// marks remember when revisions were given, for the history window; marking guards them.
	marking sync.Mutex
	marks   []mark
	// due is the Unix second at which the housekeeping has something to do; sooner, which has room for one, tells it to look
	// again.
	due    atomic.Int64
	sooner chan struct{}
}

// Size is how many bytes the store takes on disk.
func (s *Store) Size(context.Context) (int64, error) {
	select {
	case <-s.stop:
		return 0, fmt.Errorf("size: %w", store.ErrClosed)
	default:
		return int64(s.db.Metrics().DiskSpaceUsage()), nil
	}
}

type mark struct {
	at       time.Time
	revision int64
}

type write struct {
	op     store.Op
	answer chan answer
}

type answer struct {
	record store.Record
	err    error
}

// Open opens the store in dir, or makes it. Only one process may have it open.
func Open(dir string, o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.HistoryWindow == 0 {
		o.HistoryWindow = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.manual = o.Now != nil
	if o.Now == nil {
		o.Now = time.Now
	}
	tuning, free := tune(&o)
	defer free()
	db, err := pebble.Open(dir, tuning)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("open store %s: in use by another process: %w", dir, err)
		}
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	s := &Store{
		db: db, options: o, writes: make(chan *write, maxWaiting),
		stop: make(chan struct{}), done: make(chan struct{}), sooner: make(chan struct{}, 1),
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), db.Close())
	}
	s.written.Store(o.Now().Unix())
	s.feed = feed.New(feed.Config{Revision: s.revision.Load(), Past: s.history, Current: s.acknowledged})
	if err := s.startLoading(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", dir, err), db.Close())
	}
	go s.sequence()
	s.beside.Go(s.housekeep)
	return s, nil
}

// startLoading fills the index with what is stored, beside the first writes.
func (s *Store) startLoading() error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableVersions}, UpperBound: []byte{tableVersions + 1}})
	if err != nil {
		return err
	}
	loading := make(chan map[string]slot, 1)
	s.index = index{slots: map[string]slot{}, loading: loading}
	s.beside.Go(func() {
		if err := s.load(it, loading); err != nil {
			s.options.Log.Error("index keys", "error", err) // writes look their keys up, as before
		}
	})
	return nil
}

func (s *Store) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// recover finds the newest revision and checks the format.
func (s *Store) recover() error {
	found, err := s.number(metaFormat)
	switch {
	case err != nil:
		return err
	case found == 0, found == 1: // what is stored in format 1 is read as it is
		b := s.db.NewBatch()
		defer b.Close()
		err := b.Set(metaFormat, binary.BigEndian.AppendUint64(nil, format), nil)
		if found == 0 && s.options.First > 1 {
			err = errors.Join(err, b.Set(metaCompacted, binary.BigEndian.AppendUint64(nil, uint64(s.options.First)), nil))
		}
		if err := errors.Join(err, b.Commit(pebble.Sync)); err != nil {
			return err
		}
	case found != format:
		return fmt.Errorf("format %d is not known to this version, which knows %d", found, format)
	}
	compacted, err := s.number(metaCompacted)
	if err != nil {
		return err
	}
	s.compacted.Store(compacted)
	s.revision.Store(max(1, compacted))
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tableLog}, UpperBound: []byte{tableLog + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	if it.Last() {
		s.revision.Store(max(s.revision.Load(), int64(binary.BigEndian.Uint64(it.Key()[1:]))))
	}
	return it.Error()
}

func (s *Store) number(key []byte) (int64, error) {
	b, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if len(b) != 8 {
		return 0, fmt.Errorf("malformed %s", key)
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// Close stops the store. Writes without an answer fail with store.ErrClosed.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		<-s.done
		s.committing.Lock() // a writer may be committing itself; none begins after this
		s.alone.Store(false)
		s.committing.Unlock()
		s.beside.Wait()
		s.feed.Close()
		err = s.db.Close()
	})
	return err
}

// Revision is the newest revision.
func (s *Store) Revision() int64 { return s.revision.Load() }

// Write implements store.Store.
func (s *Store) Write(ctx context.Context, op store.Op) (store.Record, error) {
	if op.Key == "" || strings.IndexByte(op.Key, 0) >= 0 {
		return store.Record{}, fmt.Errorf("write: bad key %q", op.Key)
	}
	if len(op.Value) > store.MaxValueBytes {
		return store.Record{}, fmt.Errorf("write %s: %d bytes: %w", op.Key, len(op.Value), store.ErrTooLarge)
	}
	w := &write{op: op, answer: make(chan answer, 1)}
	select {
	case <-s.stop:
		return store.Record{}, fmt.Errorf("write %s: %w", op.Key, store.ErrClosed)
	default:
	}
	if s.direct(w) {
		a := <-w.answer
		return a.record, a.err
	}
	select {
	case s.writes <- w:
	case <-s.stop:
		return store.Record{}, fmt.Errorf("write %s: %w", op.Key, store.ErrClosed)
	case <-ctx.Done():
		return store.Record{}, ctx.Err()
	}
	select {
	case a := <-w.answer:
		return a.record, a.err
	case <-s.done:
		select { // it may have been answered just before
		case a := <-w.answer:
			return a.record, a.err
		default:
			return store.Record{}, fmt.Errorf("write %s: %w", op.Key, store.ErrClosed)
		}
	}
}
