// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
)

// Bounds of what a view remembers beside its objects.
const (
	viewHistory = 1024 // changes that subscribers may be behind before they are told the difference instead
	viewWrites  = 1024 // own deletions and departures that older events must not undo
	treeDegree  = 16
)

// viewKey names one question for a view.
type viewKey struct {
	kind           *resource.Kind
	labels, fields string
}

// view is a call.View that a watch maintains. Readers get snapshots that never change.
type view struct {
	transport *HTTP
	kind      *resource.Kind
	labels    labels.Selector
	fields    fields.Selector
	listOnly  bool // the server has no streaming lists

	ready  chan struct{} // closed when complete, or failed
	failed error         // set before ready is closed

	mu      sync.Mutex
	newest  *viewState
	changed chan struct{} // closed and replaced when newest is
	// history holds the changes since the state with sequence number oldest.
	history     []viewChange
	oldest      uint64
	subscribers int

	tree *btree.BTreeG[viewItem] // of the writer, with mu
	// buried holds uids of objects that this transport deleted, floors the revisions that objects had when they left the
	// selection by its writes: older events about them are out of date.
	buried recent[types.UID, bool]
	floors recent[Key, uint64]
	// listed is the revision of the newest whole list: events that are not newer are out of date. newer is the newest
	// revision of all.
	listed, newer uint64
	// revision is where the next watch starts; for the goroutine that follows the server alone.
	revision string
	end      atomic.Pointer[func()] // ends the present watch
}

// viewItem is an object in the tree.
type viewItem struct {
	key      Key
	revision uint64
	object   resource.Object
}

func viewLess(a, b viewItem) bool {
	if a.key.Namespace != b.key.Namespace {
		return a.key.Namespace < b.key.Namespace
	}
	return a.key.Name < b.key.Name
}

// viewState is the objects after a number of changes.
type viewState struct {
	tree     *btree.BTreeG[viewItem]
	sequence uint64
}

type viewChange struct{ object, old resource.Object }

// recent is a map that forgets its oldest entries.
type recent[K comparable, V any] struct {
	values map[K]V
	order  []K
}

func (r *recent[K, V]) put(k K, v V) {
	if r.values == nil {
		r.values = map[K]V{}
	}
	if _, ok := r.values[k]; !ok {
		if len(r.order) >= viewWrites {
			delete(r.values, r.order[0])
			r.order = append(r.order[:0], r.order[1:]...)
		}
		r.order = append(r.order, k)
	}
	r.values[k] = v
}

func revisionOf(o resource.Object) uint64 {
	n, _ := strconv.ParseUint(o.GetResourceVersion(), 10, 64) // 0 for servers with other revisions: then the last word counts
	return n
}

// View implements call.Transport. It fails at once if the server refuses the question, and else tries until ctx ends.
func (h *HTTP) View(ctx context.Context, q *call.Request) (call.View, error) {
	key := viewKey{kind: q.Kind}
	if q.Labels != nil {
		key.labels = q.Labels.String()
	}
	if q.Fields != nil {
		key.fields = q.Fields.String()
	}
	h.mu.Lock()
	v := h.views[key]
	if h.closed {
		h.mu.Unlock()
		return nil, apierrors.NewServiceUnavailable("the client is closed")
	}
	if v == nil {
		v = newView(h, q)
		h.views[key] = v
		h.work.Go(func() {
			v.run(h.ctx)
			if v.failed != nil {
				h.forget(key, v)
			}
		})
	}
	h.mu.Unlock()
	select {
	case <-v.ready:
		if v.failed != nil {
			return nil, v.failed
		}
		return v, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.ctx.Done():
		return nil, apierrors.NewServiceUnavailable("the client is closed")
	}
}

func (h *HTTP) forget(key viewKey, v *view) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.views[key] == v {
		delete(h.views, key)
	}
}

func newView(h *HTTP, q *call.Request) *view {
	v := &view{
		transport: h, kind: q.Kind, labels: q.Labels, fields: q.Fields, ready: make(chan struct{}),
		changed: make(chan struct{}), tree: btree.NewG(treeDegree, viewLess),
	}
	v.newest = &viewState{tree: v.tree.Clone()}
	return v
}

func (v *view) state() *viewState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.newest
}

// Get implements call.View.
func (v *view) Get(namespace, name string) (resource.Object, bool) {
	item, ok := v.state().tree.Get(viewItem{key: v.key(namespace, name)})
	return item.object, ok
}

func (v *view) key(namespace, name string) Key {
	if v.kind.Scope != resource.Namespaced {
		namespace = ""
	}
	return Key{Namespace: namespace, Name: name}
}

// List implements call.View.
func (v *view) List(namespace string, each func(resource.Object) bool) {
	tree := v.state().tree
	if namespace == "" || v.kind.Scope != resource.Namespaced {
		tree.Ascend(func(i viewItem) bool { return each(i.object) })
		return
	}
	tree.AscendGreaterOrEqual(viewItem{key: Key{Namespace: namespace}}, func(i viewItem) bool {
		return i.key.Namespace == namespace && each(i.object)
	})
}

// Subscribe implements call.View. A subscriber that falls behind the history is told the difference instead.
func (v *view) Subscribe(ctx context.Context, changed func(obj, old resource.Object), synced func()) error {
	v.mu.Lock()
	v.subscribers++
	known := v.newest
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.subscribers--; v.subscribers == 0 {
			v.history, v.oldest = nil, v.newest.sequence
		}
	}()
	known.tree.Ascend(func(i viewItem) bool {
		changed(i.object, nil)
		return ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	synced()
	for {
		changes, now, wait := v.since(known)
		if now == nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return ctx.Err()
			case <-v.transport.ctx.Done():
				return apierrors.NewServiceUnavailable("the client is closed")
			}
		}
		if changes == nil {
			difference(known, now, changed)
		}
		for _, c := range changes {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			changed(c.object, c.old)
		}
		known = now
	}
}

// since returns the newest state and the changes from known to it, nil if there are too many; or what to wait for.
func (v *view) since(known *viewState) ([]viewChange, *viewState, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known.sequence == v.newest.sequence {
		return nil, nil, v.changed
	}
	if known.sequence < v.oldest {
		return nil, v.newest, nil
	}
	return append([]viewChange(nil), v.history[known.sequence-v.oldest:]...), v.newest, nil
}

// difference tells what changed from one state to another.
func difference(from, to *viewState, changed func(obj, old resource.Object)) {
	from.tree.Ascend(func(i viewItem) bool {
		if !to.tree.Has(i) {
			changed(nil, i.object)
		}
		return true
	})
	to.tree.Ascend(func(i viewItem) bool {
		before, _ := from.tree.Get(i)
		if before.object != i.object {
			changed(i.object, before.object)
		}
		return true
	})
}

// put takes in the state of an object, unless a newer one is known. The lock is held; publish must follow.
func (v *view) put(o resource.Object) {
	item := viewItem{key: KeyOf(o), revision: revisionOf(o), object: o}
	if v.buried.values[o.GetUID()] || item.revision != 0 && item.revision <= v.floors.values[item.key] {
		return
	}
	before, ok := v.tree.Get(item)
	if ok && before.revision >= item.revision && item.revision != 0 {
		return
	}
	v.newer = max(v.newer, item.revision)
	v.tree.ReplaceOrInsert(item)
	v.record(o, before.object)
}

// drop takes in that an object was gone, or not selected, at a revision. The lock is held; publish must follow.
func (v *view) drop(key Key, revision uint64) {
	before, ok := v.tree.Get(viewItem{key: key})
	if !ok || before.revision > revision && revision != 0 {
		return
	}
	v.newer = max(v.newer, revision)
	v.tree.Delete(before)
	v.record(nil, before.object)
}

// stale says that what an event says of a revision is part of a list that was taken in.
func (v *view) stale(revision uint64) bool { return revision != 0 && revision <= v.listed }

func (v *view) record(o, old resource.Object) {
	if v.subscribers == 0 {
		v.history, v.oldest = nil, v.oldest+uint64(len(v.history))+1
		return
	}
	if len(v.history) >= 2*viewHistory {
		v.history, v.oldest = append([]viewChange(nil), v.history[viewHistory:]...), v.oldest+viewHistory
	}
	v.history = append(v.history, viewChange{o, old})
}

// publish makes what put and drop took in visible. The lock is held.
func (v *view) publish() {
	sequence := v.oldest + uint64(len(v.history))
	if sequence == v.newest.sequence {
		return
	}
	v.newest = &viewState{tree: v.tree.Clone(), sequence: sequence}
	close(v.changed)
	v.changed = make(chan struct{})
}

// load takes in the list that a session of following begins with. seen is the newest revision before the list was
// asked for: if the list is older, the server lost its past, and what the view knew is worth nothing.
func (v *view) load(items []resource.Object, revision, seen uint64) {
	if revision != 0 && revision < seen {
		v.mu.Lock()
		v.buried, v.floors, v.listed, v.newer = recent[types.UID, bool]{}, recent[Key, uint64]{}, 0, 0
		var all []Key
		v.tree.Ascend(func(i viewItem) bool {
			all = append(all, i.key)
			return true
		})
		for _, key := range all {
			v.drop(key, 0)
		}
		v.mu.Unlock()
	}
	v.replace(items, revision)
	if !v.complete() {
		close(v.ready)
	}
}

func (v *view) complete() bool {
	select {
	case <-v.ready:
		return true
	default:
		return false
	}
}

// seen is the newest revision that the view knows of.
func (v *view) seen() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return max(v.newer, v.listed)
}

// replace takes in a whole list at a revision: what is not in it is gone, unless it is newer.
func (v *view) replace(items []resource.Object, revision uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stale(revision) && revision < v.listed {
		return
	}
	listed := make(map[Key]bool, len(items))
	for _, o := range items {
		listed[KeyOf(o)] = true
		v.put(o)
	}
	var gone []Key
	v.tree.Ascend(func(i viewItem) bool {
		if !listed[i.key] {
			gone = append(gone, i.key)
		}
		return true
	})
	for _, key := range gone {
		v.drop(key, revision)
	}
	v.listed = revision
	v.publish()
}

// matches says whether the view selects an object.
func (v *view) matches(o resource.Object) bool {
	if v.labels != nil && !v.labels.Empty() && !v.labels.Matches(labels.Set(o.GetLabels())) {
		return false
	}
	if v.fields == nil || v.fields.Empty() {
		return true
	}
	set := fields.Set{}
	if v.kind.Fields != nil {
		for name, value := range v.kind.Fields(o) {
			set[name] = value
		}
	}
	set["metadata.name"], set["metadata.namespace"] = o.GetName(), o.GetNamespace()
	return v.fields.Matches(set)
}

// write takes in an object as this transport's write left it.
func (v *view) write(o resource.Object) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.stale(revisionOf(o)):
	case v.matches(o):
		v.put(o)
	default:
		v.floors.put(KeyOf(o), revisionOf(o))
		v.drop(KeyOf(o), revisionOf(o))
	}
	v.publish()
}

// bury takes in that an object was deleted.
func (v *view) bury(key Key, uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.buried.put(uid, true)
	if before, ok := v.tree.Get(viewItem{key: key}); ok && before.object.GetUID() == uid {
		v.drop(key, before.revision)
	}
	v.publish()
}

// viewTimes are the delays of a view that cannot reach its server.
const (
	viewBackoffMin = 200 * time.Millisecond
	viewBackoffMax = 30 * time.Second
	viewWatchMin   = 5 * time.Minute // how long a watch lasts, at random up to twice that
)
