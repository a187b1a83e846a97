// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"container/heap"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// place is where an entry is.
type place uint8

const (
	flying   place = iota // taken out by pop: a cycle or a binding has it
	active                // ready
	resting               // in backoff after it was refused; taken early if nothing is ready
	retrying              // in backoff after an error
	waiting               // refused; an event must help
	gated                 // has scheduling gates
)

// entry is a pod that has no node yet.
type entry struct {
	pod      *snapshot.Pod // guarded by the queue; the flying entry's is read by pop
	place    place
	index    int       // in its heap
	added    time.Time // orders pods of one priority, and then number
	number   uint64
	since    time.Time // when it came, or lost its gates
	tried    time.Time // start of the last attempt
	attempts int       // since it was created, or changed
	ready    time.Time // end of backoff
	parked   time.Time // since when it waits
	moment   int64     // of the queue when the flight began
	helps    plugins.Event
	missed   plugins.Event // what happened while it was flying
	changed  bool          // its pod changed while it was flying
	gone     bool          // its pod went while it was flying
}

// queue holds the pods that have no node. Time is an argument.
type queue struct {
	initial, limit, patience time.Duration
	wake                     chan struct{} // has an element when pop may find something new

	mu      sync.Mutex
	entries map[types.UID]*entry
	active  pods
	resting pods
	retries pods
	last    uint64
	waiting map[*entry]bool
	helps   plugins.Event // covers what would help any waiting entry
	flights map[*entry]bool
	moment  int64                // counts events
	latest  [plugins.Kinds]int64 // the moment of the latest event of each kind
	counts  [gated + 1]int
}

func newQueue(initial, limit, patience time.Duration) *queue {
	return &queue{
		initial: initial, limit: limit, patience: patience, wake: make(chan struct{}, 1), entries: map[types.UID]*entry{},
		active: pods{before: byPriority}, resting: pods{before: byReady}, retries: pods{before: byReady}, waiting: map[*entry]bool{}, flights: map[*entry]bool{},
	}
}

func byPriority(a, b *entry) bool {
	if p, q := a.pod.Rank, b.pod.Rank; p != q {
		return p > q
	}
	if !a.added.Equal(b.added) {
		return a.added.Before(b.added)
	}
	return a.number < b.number
}

func byReady(a, b *entry) bool { return a.ready.Before(b.ready) }

// set adds a pod or takes note of its change. Changes of status alone do not make a pod that waits worth another try.
func (q *queue) set(p *corev1.Pod, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[p.UID]
	if e == nil {
		q.last++
		e = &entry{pod: snapshot.NewPod(p), number: q.last}
		q.entries[p.UID] = e
		q.counts[flying]++ // on its way to its place
		q.settle(e, now)
		return
	}
	worth := differs(e.pod.Pod, p)
	if e.place == flying {
		e.pod, e.changed = snapshot.NewPod(p), e.changed || worth
		return
	}
	if !worth {
		next := *e.pod
		next.Pod = p
		e.pod = &next
		return
	}
	if e.place == gated {
		e.since = time.Time{}
	}
	q.take(e)
	e.pod, e.attempts = snapshot.NewPod(p), 0
	q.settle(e, now)
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[uid]
	if e == nil {
		return
	}
	delete(q.entries, uid)
	if e.place == flying {
		e.gone = true
		return
	}
	q.take(e)
	q.counts[flying]--
}

// pop takes out the pod to try next. If there is none, it tells how long until there may be one.
func (q *queue) pop(now time.Time) (*entry, *snapshot.Pod, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ripen(now)
	from := &q.active
	if from.Len() == 0 {
		from = &q.resting // there is time to spare: need not wait for the backoff to end
	}
	if from.Len() == 0 {
		wait := q.patience
		if q.retries.Len() > 0 {
			wait = min(wait, q.retries.list[0].ready.Sub(now))
		}
		return nil, nil, wait
	}
	e := from.list[0]
	q.take(e)
	e.attempts++
	e.tried, e.moment = now, q.moment
	e.missed, e.changed = 0, false
	q.flights[e] = true
	return e, e.pod, 0
}

// ripen moves to active what has been in backoff for long enough.
func (q *queue) ripen(now time.Time) {
	for _, from := range []*pods{&q.resting, &q.retries} {
		for from.Len() > 0 && !from.list[0].ready.After(now) {
			e := from.list[0]
			q.take(e)
			q.put(e, active)
		}
	}
}

// done ends the flight of a pod that was bound.
func (q *queue) done(e *entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.land(e) {
		delete(q.entries, e.pod.UID)
		q.counts[flying]--
	}
}

// park ends the flight of a pod that was refused; helps are the events that could change that.
func (q *queue) park(e *entry, helps plugins.Event, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.land(e) {
		return
	}
	e.added = now
	switch {
	case e.changed:
		e.attempts = 0
		q.settle(e, now)
	case e.missed&helps != 0:
		e.ready = now.Add(q.backoff(e.attempts))
		q.put(e, resting)
	default:
		e.helps, e.parked = helps, now
		q.helps |= helps
		q.put(e, waiting)
	}
}

// spare ends the flight of a pod that was not tried after all, as one like it was refused.
func (q *queue) spare(e *entry, helps plugins.Event, now time.Time) {
	q.mu.Lock()
	e.attempts--
	q.mu.Unlock()
	q.park(e, helps, now)
}

// retry ends the flight of a pod that met an error.
func (q *queue) retry(e *entry, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.land(e) {
		e.ready = now.Add(q.backoff(e.attempts))
		q.put(e, retrying)
	}
}

// land ends a flight and tells whether the pod is still there.
func (q *queue) land(e *entry) bool {
	delete(q.flights, e)
	if e.gone {
		q.counts[flying]--
	}
	return !e.gone
}

func (q *queue) backoff(attempts int) time.Duration {
	d := q.initial
	for i := 1; i < attempts && d < q.limit; i++ {
		d *= 2
	}
	return min(d, q.limit)
}

// happened makes the waiting pods that an event may help worth another try.
func (q *queue) happened(event plugins.Event, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moment++
	for i := range q.latest {
		if event&(1<<i) != 0 {
			q.latest[i] = q.moment
		}
	}
	for e := range q.flights {
		e.missed |= event
	}
	if q.helps&event == 0 {
		return
	}
	q.helps = 0
	for e := range q.waiting {
		if e.helps&event != 0 {
			q.release(e, now)
		} else {
			q.helps |= e.helps
		}
	}
}

// quiet tells whether no event of some kinds happened after a moment.
func (q *queue) quiet(events plugins.Event, after int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, moment := range q.latest {
		if events&(1<<i) != 0 && moment > after {
			return false
		}
	}
	return true
}

// flush gives those another try that have waited for longer than the patience, in case an event was misjudged.
func (q *queue) flush(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.waiting {
		if now.Sub(e.parked) >= q.patience {
			q.release(e, now)
		}
	}
}

// release moves a waiting entry on; the backoff counts from when it was parked.
func (q *queue) release(e *entry, now time.Time) {
	q.take(e)
	e.ready = e.parked.Add(q.backoff(e.attempts))
	if e.ready.After(now) {
		q.put(e, resting)
	} else {
		q.put(e, active)
	}
}

// settle puts a pod where it belongs that is to be tried at once.
func (q *queue) settle(e *entry, now time.Time) {
	e.added = now
	if e.since.IsZero() {
		e.since = now
	}
	if len(e.pod.Spec.SchedulingGates) > 0 {
		q.put(e, gated)
	} else {
		q.put(e, active)
	}
}

func (q *queue) put(e *entry, p place) {
	q.counts[e.place]--
	q.counts[p]++
	e.place = p
	if p == waiting {
		q.waiting[e] = true
	}
	if h := q.heap(p); h != nil {
		heap.Push(h, e)
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// take removes an entry from its place.
func (q *queue) take(e *entry) {
	if h := q.heap(e.place); h != nil {
		heap.Remove(h, e.index)
	}
	delete(q.waiting, e)
	q.counts[e.place]--
	q.counts[flying]++
	e.place = flying
}

func (q *queue) heap(p place) *pods {
	switch p {
	case active:
		return &q.active
	case resting:
		return &q.resting
	case retrying:
		return &q.retries
	}
	return nil
}

// count tells how many pods are in some places.
func (q *queue) count(places ...place) (sum int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range places {
		sum += q.counts[p]
	}
	return sum
}

// pods is a heap of entries that know where they are in it.
type pods struct {
	list   []*entry
	before func(a, b *entry) bool
}

func (h *pods) Len() int           { return len(h.list) }
func (h *pods) Less(i, j int) bool { return h.before(h.list[i], h.list[j]) }
func (h *pods) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

// Push is heap.Interface's.
func (h *pods) Push(x any) {
	e := x.(*entry)
	e.index = len(h.list)
	h.list = append(h.list, e)
}

// Pop is heap.Interface's.
func (h *pods) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return e
}

// differs tells whether a pod changed in what decides where it can go.
func differs(old, p *corev1.Pod) bool {
	if old.Generation != 0 && old.Generation == p.Generation {
		return !maps.Equal(old.Labels, p.Labels)
	}
	return !maps.Equal(old.Labels, p.Labels) || !apiequality.Semantic.DeepEqual(old.Spec, p.Spec)
}
