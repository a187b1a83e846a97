// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package store keeps revisioned keys and streams their changes.
//
// Every write gets the next revision of one int64 sequence. A write is acknowledged only when it is durable. A watch
// started at revision r sees each later change once, in order, or fails with ErrCompacted. The package knows bytes and
// revisions; it does not know API objects.
//
// Backends live in pebble and etcd; both must pass storetest. Start with Store, then Write.
package store

import (
	"context"
	"errors"
	"time"
)

// Sentinels that callers branch on with errors.Is. Every backend wraps them with the operation and key.
var (
	// ErrConflict means that the condition of a Write did not hold; nothing was changed.
	ErrConflict = errors.New("revision conflict")
	// ErrCompacted means that history before the asked revision is gone.
	ErrCompacted = errors.New("revision compacted")
	// ErrFuture means that the asked revision was not reached yet.
	ErrFuture = errors.New("revision in the future")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store closed")
	// ErrTooLarge means that a value is over MaxValueBytes.
	ErrTooLarge = errors.New("value too large")
)

// MaxValueBytes bounds one value, as etcd's default request limit does (1.5 MiB).
const MaxValueBytes = 3 << 19

// Record is one key at one revision.
type Record struct {
	Key   string
	Value []byte // shared: never modify
	// Created is the revision of the write that made the key, Modified that of its last write.
	Created, Modified int64
	// Expires is the Unix second at which the record ends by itself; 0 is never, or that Query.Expiry did not ask.
	Expires int64
	// Attachment is what the writer put into Op.Attachment, if this process wrote the record and still remembers it.
	Attachment any
}

// Op is one conditional write.
type Op struct {
	Key   string
	Value []byte // nil deletes the key
	// Expect is the condition: Any, Absent, or the Modified revision that the key must have now.
	Expect int64
	// TTL, rounded up to seconds, deletes the key that long after this write; 0 keeps it.
	TTL time.Duration
	// Attachment travels with the event to watches of this process, so that the decoded form of Value need not be
	// made again. The store never looks at it and does not persist it. With one, nobody reads Value any more when Write has
	// returned without an error, so that its memory may be used again.
	Attachment any
	// End has the key deleted again right after it was written (Value must not be nil): at the next revision and in the same commit
	// if the backend can, else by a second write, which may fail by itself. Watches see both. The answer is that of the deletion.
	End *End
}

// End is the deletion that follows a write.
type End struct {
	Attachment any // of the deletion's event
}

// Values of Op.Expect other than a revision.
const (
	Any    int64 = -1
	Absent int64 = 0
)

// Query selects records.
type Query struct {
	// Key is one key; or, with Prefix, what all keys start with.
	Key    string
	Prefix bool
	// After leaves out keys that are not greater, to go on with a list.
	After string
	// Limit bounds the number of records; 0 is unlimited.
	Limit int
	// Revision reads as of then; 0 is now.
	Revision int64
	// CountOnly leaves Records empty and fills Count.
	CountOnly bool
	// Expiry asks for Record.Expires, which may cost more.
	Expiry bool
}

// Page answers a Query.
type Page struct {
	Records []Record // in key order
	// Revision is that of the read: every write up to it is seen, none after it.
	Revision int64
	// Count is how many keys match, beyond Limit too; those that After leaves out may be counted or not.
	Count int64
	More  bool
}

// Event is one change of one key.
type Event struct {
	Record // for a deletion: the key, Modified is the revision of the deletion, Value is nil; it may be nil, too, if there is an Attachment
	// Size is the length of the value that was written, in bytes.
	Size int
	// Deleted tells a deletion from a write.
	Deleted bool
	// Prev is the record before, if there was one and the backend had it at hand: whoever needs it and finds none reads the key
	// at the revision before Modified.
	Prev *Record
}

// Store is a revisioned key space. All methods may be called at once from many goroutines.
type Store interface {
	// Read answers q, linearizably if q.Revision is 0. Errors: ErrCompacted, ErrFuture, ErrClosed.
	Read(ctx context.Context, q Query) (Page, error)
	// Write carries op out and returns its revision when it is durable. On ErrConflict the returned record is the
	// current one (zero if absent). Deleting what is absent changes nothing and returns no revision. An error other than ErrConflict, ErrTooLarge or ErrClosed leaves the outcome open.
	Write(ctx context.Context, op Op) (Record, error)
	// Watch streams changes of keys that start with prefix with revisions greater than after (0: from now on).
	Watch(ctx context.Context, prefix string, after int64) (Watcher, error)
	// Compact forgets history up to and including rev, except for current values.
	Compact(ctx context.Context, rev int64) error
	// Close stops the store; what was acknowledged stays.
	Close() error
}

// Watcher is one watch. Its buffer is bounded: a reader that falls behind reads on from history, and gets
// ErrCompacted if history was compacted meanwhile. Writers never wait for it.
type Watcher interface {
	// Next blocks for the next events, all of one or several whole revisions, in order.
	Next(ctx context.Context) ([]Event, error)
	// Progress returns a revision that is at least the store's newest at the time of the call and for which every
	// matching event has been returned by Next already, or blocks until that is so. Call it beside Next.
	Progress(ctx context.Context) (int64, error)
	// Close ends the watch; Next returns ErrClosed.
	Close()
}
