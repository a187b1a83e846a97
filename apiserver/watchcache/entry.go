// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"strconv"
	"sync"
	"sync/atomic"

	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
)

// Entry is one object at one revision: decoded, and encoded once in each form that is asked for. It is immutable and
// shared by all readers. Encodings that nobody has read for a while are dropped; see Cache.Tidy.
type Entry struct {
	Key string
	// Object carries its resourceVersion. It must never be modified.
	Object   resource.Object
	Revision int64
	Kind     *resource.Kind

	labels      Labels
	read        atomic.Bool // an encoding was read since the last Tidy
	json, proto atomic.Pointer[[]byte]
	touched     atomic.Pointer[atomic.Bool] // the cache's, if the entry is in one: set with read
	form        atomic.Pointer[Entry]
}

// NewEntry wraps an object whose resourceVersion is set already.
func NewEntry(kind *resource.Kind, key string, obj resource.Object, revision int64) *Entry {
	return &Entry{Key: key, Object: obj, Revision: revision, Kind: kind, labels: labelsOf(obj.GetLabels())}
}

// MayHave says whether the object may have all of the labels; false is certain. It touches nothing but the entry, so that
// a list by label does not read the memory of all objects that do not match.
func (e *Entry) MayHave(l Labels) bool { return e.labels&l == l }

// JSON is the object in JSON; that of built-in kinds has no kind and apiVersion.
func (e *Entry) JSON() ([]byte, error) {
	return e.encoded(&e.json, func() ([]byte, error) { return codec.MarshalJSON(e.Object) })
}

// Proto is the protobuf message of the object, without the envelope. Kinds without protobuf give codec.ErrNoProto.
func (e *Entry) Proto() ([]byte, error) {
	return e.encoded(&e.proto, func() ([]byte, error) { return codec.MarshalProto(e.Object) })
}

func (e *Entry) encoded(at *atomic.Pointer[[]byte], encode func() ([]byte, error)) ([]byte, error) {
	if !e.read.Load() {
		e.read.Store(true)
		if t := e.touched.Load(); t != nil && !t.Load() {
			t.Store(true)
		}
	}
	if b := at.Load(); b != nil {
		return *b, nil
	}
	b, err := encode()
	if err != nil {
		return nil, err
	}
	at.Store(&b) // two readers may encode at once; both results are the same
	return b, nil
}

// tidy drops the encodings unless they were read since the last call. It returns the bytes that were freed, and whether
// there is something left.
func (e *Entry) tidy() (freed int, left bool) {
	if e.read.Swap(false) {
		return 0, true
	}
	for _, at := range []*atomic.Pointer[[]byte]{&e.json, &e.proto} {
		if b := at.Swap(nil); b != nil {
			freed += len(*b)
		}
	}
	if f := e.form.Swap(nil); f != nil {
		more, _ := f.tidy()
		freed += more
	}
	return freed, false
}

// As returns the entry in the form of kind: e itself, or its conversion to a kind that is stored as e's.
func (e *Entry) As(kind *resource.Kind) (*Entry, error) {
	if kind == e.Kind || kind.Stored == nil {
		return e, nil
	}
	if f := e.form.Load(); f != nil && f.Kind == kind {
		return f, nil
	}
	obj, err := kind.Stored.FromHub(e.Object)
	if err != nil {
		return nil, err
	}
	return e.formed(kind, obj), nil
}

// formed keeps a form of the entry.
func (e *Entry) formed(kind *resource.Kind, obj resource.Object) *Entry {
	f, t := NewEntry(kind, e.Key, obj, e.Revision), e.touched.Load()
	f.touched.Store(t)
	e.form.Store(f)
	e.read.Store(true)
	if t != nil {
		t.Store(true)
	}
	return f
}

// Convert makes the forms that entries lack in kind, all at once if that costs less; As has them then.
func Convert(entries []*Entry, kind *resource.Kind) error {
	if kind.Stored == nil || kind.Stored.FromHubAll == nil {
		return nil
	}
	var missing []*Entry
	var objects []resource.Object
	for _, e := range entries {
		if f := e.form.Load(); e.Kind != kind && (f == nil || f.Kind != kind) {
			missing, objects = append(missing, e), append(objects, e.Object)
		}
	}
	if len(missing) < 2 {
		return nil
	}
	made, err := kind.Stored.FromHubAll(objects)
	if err != nil {
		return err
	}
	for i, e := range missing {
		e.formed(kind, made[i])
	}
	return nil
}

// at returns the entry's object with another resourceVersion.
func (e *Entry) at(revision int64) *Entry {
	obj := e.Object.DeepCopyObject().(resource.Object)
	obj.SetResourceVersion(strconv.FormatInt(revision, 10))
	other := NewEntry(e.Kind, e.Key, obj, revision)
	other.touched.Store(e.touched.Load())
	return other
}

// Written is what a writer attaches to a store.Op: the object that it writes, which gets its revision when the write
// has one. The writer and the cache end up with one and the same entry.
type Written struct {
	kind  *resource.Kind
	obj   resource.Object
	once  sync.Once
	entry *Entry
}

// NewWritten takes over obj: the writer must not modify it any more.
func NewWritten(kind *resource.Kind, obj resource.Object) *Written {
	return &Written{kind: kind, obj: obj}
}

// Entry returns the entry of the write at its revision.
func (w *Written) Entry(key string, revision int64) *Entry {
	w.once.Do(func() {
		w.obj.SetResourceVersion(strconv.FormatInt(revision, 10))
		w.entry = NewEntry(w.kind, key, w.obj, revision)
	})
	return w.entry
}

// Event is one change. It is immutable and shared by all watchers.
type Event struct {
	Key      string
	Revision int64
	// Entry is the object after the change; of a deletion, its last state with the deletion's revision.
	Entry   *Entry
	Deleted bool
	// Prev is the object before, nil if there was none.
	Prev *Entry

	left atomic.Pointer[Entry]
}

// Left returns the previous state with the revision of this event: what a watcher sees as deleted when the object
// stops to match its selector.
func (e *Event) Left() *Entry {
	if l := e.left.Load(); l != nil {
		return l
	}
	e.left.CompareAndSwap(nil, e.Prev.at(e.Revision))
	return e.left.Load()
}

// tidy drops the encodings of what is not current any more.
func (e *Event) tidy() (freed int, left bool) {
	tidy := func(one *Entry) {
		if one != nil {
			more, held := one.tidy()
			freed, left = freed+more, left || held
		}
	}
	if e.Deleted {
		tidy(e.Entry)
	}
	tidy(e.Prev)
	tidy(e.left.Load())
	return freed, left
}
