// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watchcache keeps the current objects of one stored kind and their recent history in memory.
//
// A Cache follows the store by one watch. Readers get snapshots: immutable trees in key order, one per revision, that
// share what did not change. Watchers are cursors in one shared history, so that a thousand of them cost no copies, and
// a slow one cannot hold up anybody: it falls out of the history and gets ErrGone. Objects and their encodings are
// shared by all: nothing that comes out of here may be modified.
//
// Start with New and Run; then Fresh for reads, Watch for watches, View for components of this process.
package watchcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/store"
)

var (
	// ErrGone means that the history since the asked revision is not in the cache any more.
	ErrGone = errors.New("revision is no longer in the history")
	// ErrClosed means that the cache was closed: its resource is not served any more, or by another cache.
	ErrClosed = errors.New("watch cache closed")
)

// Bounds of the history, in events: at least historyMin are kept, more while they are younger than historyAge and what they hold
// is not more than historyBytes in its stored form. The collector of garbage marks all of it again and again; whoever needs older
// history reads it from the store.
const (
	historyMin   = 512
	historyMax   = 16384
	historyAge   = 15 * time.Second
	historyBytes = 16 << 20
	treeDegree   = 16
)

// Config says what a cache holds.
type Config struct {
	Kind  *resource.Kind // the stored kind
	Store store.Store
	Log   *slog.Logger
	// Before is the cache whose place the new one takes, if any: what was written through it is waited for.
	Before *Cache
}

// Cache holds one stored kind.
type Cache struct {
	cfg    Config
	prefix string
	ready  chan struct{}
	shared resource.Shared

	columns columns

	newest  atomic.Pointer[Snapshot]
	written *atomic.Int64 // the newest revision that this process knows to be written to the kind
	closed  chan struct{} // by Close
	sizes   sizes

	received, initialized atomic.Int64

	touched atomic.Bool // an encoding was read or made since the last Tidy
	encoded bool        // of Tidy: encodings were left the last time

	mu      sync.RWMutex
	tree    *btree.BTreeG[*Entry]
	history []*Event
	times   []arrival     // of the event of the same index
	held    int           // bytes of the stored form of what history holds
	first   uint64        // sequence number of history[0]
	oldest  int64         // history is complete for revisions greater than this
	changed chan struct{} // closed at each change
	epoch   uint64        // counts fresh starts, which end all watchers
	// changes is how many objects were not packed, or packed in vain, since the last Pack; changedAt is when the last came.
	changes   int
	changedAt time.Time
	watcher   store.Watcher // nil while none is open
	// interrupt ends the current call of watcher.Next; waiting is told when all that Next has returned is applied.
	interrupt context.CancelFunc
	waiting   []caughtUp
}

// arrival is when an event came, and how large what it replaced is in its stored form, as far as is known.
type arrival struct {
	at    time.Time
	bytes int
}

// caughtUp asks to be told when every event up to a revision that watcher.Progress returned is applied.
type caughtUp struct {
	revision int64
	done     chan struct{}
}

// Snapshot is the state at one revision.
type Snapshot struct {
	tree     *btree.BTreeG[*Entry]
	Revision int64

	state   stateID
	columns *columns // nil if the snapshot is not one of a cache's newest
}

func less(a, b *Entry) bool { return a.Key < b.Key }

// New returns a cache that is empty until Run has filled it.
func New(cfg Config) *Cache {
	c := &Cache{
		cfg: cfg, prefix: cfg.Kind.Key("", ""), ready: make(chan struct{}), changed: make(chan struct{}),
		tree: btree.NewG(treeDegree, less), written: new(atomic.Int64), closed: make(chan struct{}),
	}
	if cfg.Before != nil {
		c.written, c.cfg.Before = cfg.Before.written, nil
	}
	return c
}

// Close ends all watchers and views of the cache with ErrClosed, and waits that nothing can end any more. What is in the
// cache can be read on. Call it once, when Run has returned.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.closed)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Cache) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Kind is the stored kind.
func (c *Cache) Kind() *resource.Kind { return c.cfg.Kind }

// Ready is closed when the cache is filled for the first time.
func (c *Cache) Ready() <-chan struct{} { return c.ready }

// Run follows the store until ctx ends, and returns ctx's error, or store.ErrClosed. Other errors of the store make it
// start afresh.
func (c *Cache) Run(ctx context.Context) error {
	for backoff := 10 * time.Millisecond; ; backoff = min(2*backoff, 5*time.Second) {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, store.ErrClosed) {
			return err
		}
		c.cfg.Log.Warn("watch cache starts afresh", "kind", c.cfg.Kind.Kind, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(backoff):
		}
	}
}

func (c *Cache) follow(ctx context.Context) error {
	page, err := c.cfg.Store.Read(ctx, store.Query{Key: c.prefix, Prefix: true})
	if err != nil {
		return fmt.Errorf("list %s: %w", c.prefix, err)
	}
	tree := btree.NewG(treeDegree, less)
	for i := range page.Records {
		e, err := c.entry(&page.Records[i])
		if err != nil {
			c.cfg.Log.Error("left out an undecodable object", "key", page.Records[i].Key, "err", err)
			continue
		}
		tree.ReplaceOrInsert(e)
	}
	w, err := c.cfg.Store.Watch(ctx, c.prefix, page.Revision)
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.prefix, err)
	}
	defer w.Close()
	c.reset(tree, page.Revision, w)
	for {
		events, err := c.next(ctx, w)
		if err != nil {
			return fmt.Errorf("watch %s: %w", c.prefix, err)
		}
		c.apply(events)
	}
}

// next returns the next events, or none if it was interrupted. Whoever waits for what was returned before is told.
func (c *Cache) next(ctx context.Context, w store.Watcher) ([]store.Event, error) {
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	waiting := c.waiting
	c.interrupt, c.waiting = cancel, nil
	var reached int64
	for _, one := range waiting {
		reached = max(reached, one.revision)
	}
	if s := c.newest.Load(); reached > s.Revision {
		c.publish(reached)
	}
	c.mu.Unlock()
	for _, one := range waiting {
		close(one.done)
	}
	events, err := w.Next(calling)
	if err != nil && calling.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return events, err
}

// catchUp waits until every event that the store's watch has returned up to now is applied.
func (c *Cache) catchUp(ctx context.Context, revision int64) error {
	one := caughtUp{revision: revision, done: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, one)
	interrupt := c.interrupt
	c.mu.Unlock()
	if interrupt != nil {
		interrupt()
	}
	select {
	case <-one.done:
		return nil
	case <-c.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Figures are what a cache did since it was made.
type Figures struct {
	// Initializations is how often it was filled from the store; Received how many events came, each of which is seen by all
	// watchers; Capacity how many events are kept at most.
	Initializations, Received, Capacity int64
}

// Figures returns what the cache did so far.
func (c *Cache) Figures() Figures {
	return Figures{Initializations: c.initialized.Load(), Received: c.received.Load(), Capacity: historyMax}
}

func (c *Cache) reset(tree *btree.BTreeG[*Entry], revision int64, w store.Watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first += uint64(len(c.history))
	c.tree, c.history, c.times, c.held, c.oldest, c.watcher = tree, nil, nil, 0, revision, w
	c.epoch++
	c.changes, c.changedAt = tree.Len(), time.Now()
	c.initialized.Add(1)
	c.publish(revision)
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
}

// publish makes the tree the newest snapshot and wakes everybody; c.mu is held.
func (c *Cache) publish(revision int64) {
	state := stateID{epoch: c.epoch, events: c.first + uint64(len(c.history))}
	c.newest.Store(&Snapshot{tree: c.tree.Clone(), Revision: revision, state: state, columns: &c.columns})
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Cache) entry(r *store.Record) (*Entry, error) {
	if len(r.Value) > 0 {
		c.sizes.add(len(r.Value))
	}
	if w, ok := r.Attachment.(*Written); ok {
		return c.own(w.Entry(r.Key, r.Modified)), nil
	}
	obj, err := codec.DecodeStored(c.cfg.Kind, r.Value)
	if err != nil {
		return nil, err
	}
	obj.SetResourceVersion(strconv.FormatInt(r.Modified, 10))
	c.Share(obj)
	return c.own(NewEntry(c.cfg.Kind, r.Key, obj, r.Modified)), nil
}

// own has an entry tell the cache when its encodings are read.
func (c *Cache) own(e *Entry) *Entry {
	e.touched.Store(&c.touched)
	return e
}

// Share makes an object that nobody else has share its parts with others.
func (c *Cache) Share(obj resource.Object) {
	if c.cfg.Kind.Share != nil {
		c.shared.Lock()
		defer c.shared.Unlock()
		c.cfg.Kind.Share(obj, &c.shared)
	}
}

// Decode makes the entry of a record that was read from the store.
func (c *Cache) Decode(r *store.Record) (*Entry, error) { return c.entry(r) }

func (c *Cache) apply(events []store.Event) {
	if len(events) == 0 {
		return
	}
	c.received.Add(int64(len(events)))
	made, weights := make([]*Event, 0, len(events)), make([]int, 0, len(events))
	_, mean := c.Size()
	for i := range events {
		e := &events[i]
		ev := &Event{Key: e.Key, Revision: e.Modified, Deleted: e.Deleted}
		if e.Deleted {
			if w, ok := e.Attachment.(*Written); ok {
				ev.Entry = c.own(w.Entry(e.Key, e.Modified))
			}
		} else {
			if len(e.Value) == 0 {
				c.sizes.add(e.Size)
			}
			entry, err := c.entry(&e.Record)
			if err != nil {
				c.cfg.Log.Error("left out an undecodable change", "key", e.Key, "err", err)
				continue
			}
			ev.Entry = entry
		}
		weight := max(e.Size, len(e.Value)) // what was before is about as large
		if e.Deleted {
			weight = int(mean)
		}
		made, weights = append(made, ev), append(weights, weight)
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, ev := range made {
		prev, had := c.tree.Get(&Entry{Key: ev.Key})
		if had {
			ev.Prev = prev
		} else {
			weights[i] = 0 // the tree holds it
		}
		switch {
		case !ev.Deleted:
			c.tree.ReplaceOrInsert(ev.Entry)
		case !had:
			continue
		default:
			c.tree.Delete(prev)
			if ev.Entry == nil {
				ev.Entry = prev.at(ev.Revision)
			}
		}
		c.history, c.times = append(c.history, ev), append(c.times, arrival{now, weights[i]})
		c.held += weights[i]
	}
	c.changes, c.changedAt = c.changes+len(made), now
	c.trim(now)
	c.touched.Store(true) // who wrote an object may have encoded it before it came here
	c.publish(max(events[len(events)-1].Modified, c.newest.Load().Revision))
}

// trim forgets history beyond its bounds; c.mu is held.
func (c *Cache) trim(now time.Time) {
	n := 0
	for left := len(c.history); left > historyMin && (left > historyMax || c.held > historyBytes || now.Sub(c.times[n].at) > historyAge); left-- {
		c.held -= c.times[n].bytes
		n++
	}
	if n == 0 {
		return
	}
	c.oldest = c.history[n-1].Revision
	clear(c.history[:n])
	c.history, c.times, c.first = c.history[n:], c.times[n:], c.first+uint64(n)
}

// Tidy forgets history beyond its bounds, and the encodings of objects that nobody has read since the call before. It
// returns the bytes of the encodings. Call it now and then, by one goroutine; it costs nothing where nothing was read.
func (c *Cache) Tidy(now time.Time) int {
	c.mu.Lock()
	c.trim(now)
	if !c.touched.Swap(false) && !c.encoded {
		c.mu.Unlock()
		c.columns.tidy()
		return 0
	}
	history := slices.Clone(c.history)
	c.mu.Unlock()
	c.columns.tidy()
	total, encoded := 0, false
	note := func(freed int, left bool) { total, encoded = total+freed, encoded || left }
	for _, ev := range history {
		note(ev.tidy())
	}
	if s := c.newest.Load(); s != nil {
		s.Range("", "", func(e *Entry) bool {
			note(e.tidy())
			return true
		})
	}
	c.encoded = encoded
	return total
}

// Wrote tells the cache that a write to the kind got this revision, so that Fresh waits for it.
func (c *Cache) Wrote(revision int64) {
	for {
		old := c.written.Load()
		if old >= revision || c.written.CompareAndSwap(old, revision) {
			return
		}
	}
}

// Newest is the newest snapshot the cache has, at once; nil before it is ready.
func (c *Cache) Newest() *Snapshot { return c.newest.Load() }

// Recent is the newest snapshot that shows every write of this process that was acknowledged.
func (c *Cache) Recent(ctx context.Context) (*Snapshot, error) {
	return c.WaitFor(ctx, c.written.Load())
}

// Fresh is a snapshot that shows every write that was acknowledged before the call, by any server. Its revision is
// that of the store.
func (c *Cache) Fresh(ctx context.Context) (*Snapshot, error) {
	s, err := c.Recent(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.RLock()
	w := c.watcher
	c.mu.RUnlock()
	progress, err := w.Progress(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return s, nil // the watch is being renewed; the writes of this process are in s
	}
	if s = c.newest.Load(); s.Revision >= progress {
		return s, nil
	}
	if err := c.catchUp(ctx, progress); err != nil {
		return nil, err
	}
	return c.newest.Load(), nil
}

// WaitFor returns a snapshot of revision or newer as soon as there is one.
func (c *Cache) WaitFor(ctx context.Context, revision int64) (*Snapshot, error) {
	for {
		if s := c.newest.Load(); s != nil && s.Revision >= revision {
			return s, nil
		}
		c.mu.RLock()
		changed := c.changed
		c.mu.RUnlock()
		if s := c.newest.Load(); s != nil && s.Revision >= revision {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.closed:
			return nil, ErrClosed
		case <-changed:
		}
	}
}

// At returns the state as of a revision that is not newer than the newest, or ErrGone.
func (c *Cache) At(revision int64) (*Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision < c.oldest {
		return nil, fmt.Errorf("state at revision %d: %w", revision, ErrGone)
	}
	if s := c.newest.Load(); len(c.history) == 0 || c.history[len(c.history)-1].Revision <= revision {
		return &Snapshot{tree: s.tree, Revision: revision}, nil
	}
	tree := c.tree.Clone()
	for i := len(c.history) - 1; i >= 0 && c.history[i].Revision > revision; i-- {
		if ev := c.history[i]; ev.Prev != nil {
			tree.ReplaceOrInsert(ev.Prev)
		} else {
			tree.Delete(ev.Entry)
		}
	}
	return &Snapshot{tree: tree, Revision: revision}, nil
}

// told is the state after events were added to one: the newest snapshot, if it is that.
func (c *Cache) told(state *Snapshot, events []*Event, revision int64) *Snapshot {
	if s := c.newest.Load(); s.Revision == revision {
		return s
	}
	c.mu.Lock() // cloning a tree changes it
	tree := state.tree.Clone()
	c.mu.Unlock()
	for _, ev := range events {
		if ev.Deleted {
			tree.Delete(ev.Entry)
		} else {
			tree.ReplaceOrInsert(ev.Entry)
		}
	}
	return &Snapshot{tree: tree, Revision: revision}
}

// Get returns the entry of a key, or nil.
func (s *Snapshot) Get(key string) *Entry {
	e, _ := s.tree.Get(&Entry{Key: key})
	return e
}

// Range calls each for the entries whose keys start with prefix and are greater than after, in key order, until it
// returns false.
func (s *Snapshot) Range(prefix, after string, each func(*Entry) bool) {
	from := prefix
	if after >= from {
		from = after + "\x00"
	}
	s.tree.AscendGreaterOrEqual(&Entry{Key: from}, func(e *Entry) bool {
		if len(e.Key) < len(prefix) || e.Key[:len(prefix)] != prefix {
			return false
		}
		return each(e)
	})
}

// Len is the number of objects.
func (s *Snapshot) Len() int { return s.tree.Len() }

// Snapshot makes a snapshot of a page of all objects that was read from the store.
func (c *Cache) Snapshot(page *store.Page) (*Snapshot, error) {
	tree := btree.NewG(treeDegree, less)
	for i := range page.Records {
		e, err := c.entry(&page.Records[i])
		if err != nil {
			return nil, err
		}
		tree.ReplaceOrInsert(e)
	}
	return &Snapshot{tree: tree, Revision: page.Revision}, nil
}
