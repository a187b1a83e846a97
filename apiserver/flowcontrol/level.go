// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"sync"
	"sync/atomic"
	"time"
)

// shape is what the object of a level says.
type shape struct {
	exempt, queues       bool
	count, hand, longest int // of queues
	shares, lendable     int32
	borrowing            *int32
}

// maxQueues bounds the queues of a level. More make no difference: with 4096 and a hand of 4 a flow shares all of its queues
// with another once in 10^13.
const maxQueues = 4096

// level is one priority level: its seats, and its queues. Its methods get the time as an argument and start nothing.
//
// Fairness is by virtual time, as KEP-1040 has it: r counts the seat seconds that each active queue has had so far, in the mean. A queue
// knows the r at which its next request starts, were all queues served at once, and the queue whose next request ends first is
// served. A request is taken to last guessedDuration until it lasts longer or ends.
type level struct {
	name   string
	uid    string       // of the object, for the next table; guarded by Controller.mu
	widest atomic.Int64 // see widest
	exempt atomic.Bool

	mu sync.Mutex
	shape
	quiescing bool // its object is gone
	// limit is how many seats there are now; the others are those of the configuration.
	limit, nominal, least, most int

	at     time.Duration // when r and the sums of demand were brought up to date
	r      float64
	epoch  uint64 // counts the times that the level was idle, when virtual time starts anew
	active int    // queues with requests

	queue   []queue
	backlog []int32 // the queues in which requests wait, in no order
	last    int     // the queue that was served last

	running                                list // what has seats, of queues too
	waiting, waitingSeats, executing, busy int  // busy counts seats, also those of padding
	dispatched, rejected, cancelled        uint64
	demand                                 demand
	use                                    utilization
	turns                                  turns
	stats                                  map[string]*stats
}

// queue holds waiting requests in the order of their arrival.
type queue struct {
	list
	seats int // of waiting requests

	epoch uint64
	next  float64 // r at which the next request starts, but for what running ones take beyond their guess

	executing, busy int
	// began is the sum of seats times start in seconds, guess the sum of guessed seat seconds, of executing requests.
	began, guess float64
}

// list is a doubly linked list of tickets, each in one list at most.
type list struct {
	first, last *Ticket
	length      int
}

func (l *list) push(t *Ticket) {
	t.prev, t.next = l.last, nil
	if l.last != nil {
		l.last.next = t
	} else {
		l.first = t
	}
	l.last = t
	l.length++
}

func (l *list) remove(t *Ticket) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.last = t.prev
	}
	t.prev, t.next = nil, nil
	l.length--
}

// refused is what arrive answers beside executing and waiting.
const refused state = 255

// arrive takes in a request of a flow: it runs, waits or is refused.
func (l *level) arrive(now time.Duration, t *Ticket, flow uint64) state {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	defer l.use.changed(l)
	t.arrived = now
	t.stats.arrived(&t.work)
	switch {
	case l.shape.exempt:
		l.start(now, t)
		return executing
	case !l.queues:
		if l.busy > 0 && l.busy+t.work.width() > l.limit {
			return l.refuse(t, concurrencyLimit)
		}
		l.start(now, t)
		t.stats.waited(true, 0)
		return executing
	}
	i := l.choose(flow)
	q := &l.queue[i]
	if l.waiting == 0 && l.fits(t) {
		l.activate(now, q)
		t.queue = int32(i)
		var heads heads
		heads.see(q, true)
		l.turns.serve(q, l.r, heads)
		l.start(now, t)
		t.stats.waited(true, 0)
		return executing
	}
	if q.length >= l.longest {
		return l.refuse(t, queueFull)
	}
	l.activate(now, q)
	t.queue, t.state = int32(i), waiting
	if q.length == 0 {
		l.backlog = append(l.backlog, int32(i))
	}
	q.push(t)
	q.seats += t.work.width()
	l.waiting++
	l.waitingSeats += t.work.width()
	t.stats.waiting++
	t.stats.waitingSeats += t.work.width()
	t.stats.length.observe(float64(q.length))
	l.dispatch(now)
	if t.state == executing {
		<-t.ready
	}
	return t.state
}

func (l *level) refuse(t *Ticket, why reason) state {
	l.rejected++
	t.stats.rejected[why]++
	t.stats.waited(false, 0)
	return refused
}

// choose picks the least loaded queue of a flow's hand.
func (l *level) choose(flow uint64) int {
	if len(l.queue) < l.count {
		l.queue = append(l.queue, make([]queue, l.count-len(l.queue))...)
	}
	var hand [maxHand]int32
	best, load := 0, int(^uint(0)>>1)
	for _, i := range hand[:deal(flow, l.count, l.hand, &hand)] {
		if q := &l.queue[i]; q.seats+q.busy < load {
			best, load = int(i), q.seats+q.busy
		}
	}
	return best
}

// activate prepares a queue for one more request. Only having waited gives credit.
func (l *level) activate(now time.Duration, q *queue) {
	if q.epoch != l.epoch {
		q.epoch, q.next = l.epoch, 0
	}
	if q.length > 0 {
		return
	}
	if q.executing == 0 {
		l.active++
	}
	q.next = max(q.next, l.r-q.beyond(now))
}

// deactivate is the opposite, when a queue lost a request.
func (l *level) deactivate(q *queue) {
	if q.length == 0 && q.executing == 0 {
		l.active--
		q.began, q.guess = 0, 0 // which rounding may have left
	}
}

// fits says whether there are seats for a request. A request that is wider than the level gets all of it.
func (l *level) fits(t *Ticket) bool {
	return l.busy+t.work.width() <= l.limit || l.busy == 0 && l.limit > 0
}

// dispatch starts waiting requests as long as the next one fits.
func (l *level) dispatch(now time.Duration) {
	for l.waiting > 0 {
		at, heads := l.pick(now)
		i := l.backlog[at]
		q := &l.queue[i]
		t := q.first
		if !l.fits(t) {
			t.stats.unfit++
			return
		}
		l.unqueue(t, at)
		l.last = int(i)
		l.turns.serve(q, l.r, heads)
		l.start(now, t)
		t.stats.waited(true, now-t.arrived)
		t.ready <- struct{}{}
	}
}

// beyond is how much longer the running requests of a queue take than was guessed, in seat seconds, so far.
func (q *queue) beyond(now time.Duration) float64 {
	return max(0, float64(q.busy)*now.Seconds()-q.began-q.guess)
}

// pick returns the index in the backlog of the queue whose next request ends first in virtual time, next after the last one
// in order if there are several.
func (l *level) pick(now time.Duration) (best int, heads heads) {
	bestEnd, bestTurn := 0.0, 0
	best = -1
	for at, i := range l.backlog {
		q := &l.queue[i]
		heads.see(q, at == 0)
		end := q.next + q.beyond(now) + q.first.work.guess()
		turn := int(i) - l.last - 1
		if turn < 0 {
			turn += len(l.queue)
		}
		if best < 0 || end < bestEnd || end == bestEnd && turn < bestTurn {
			best, bestEnd, bestTurn = at, end, turn
		}
	}
	return best, heads
}

// unqueue takes a request out of its queue; at is the index of the queue in the backlog.
func (l *level) unqueue(t *Ticket, at int) {
	q := &l.queue[t.queue]
	q.remove(t)
	q.seats -= t.work.width()
	l.waiting--
	l.waitingSeats -= t.work.width()
	t.stats.waiting--
	t.stats.waitingSeats -= t.work.width()
	if q.length == 0 {
		end := len(l.backlog) - 1
		l.backlog[at] = l.backlog[end]
		l.backlog = l.backlog[:end]
	}
}

// guess is what a request is expected to take, in seat seconds.
func (w *Work) guess() float64 { return w.seatSeconds(guessInSeconds) }

func (w *Work) seatSeconds(running float64) float64 {
	return float64(w.Seats)*running + float64(w.Final)*w.Extra.Seconds()
}

// start gives a request its seats.
func (l *level) start(now time.Duration, t *Ticket) {
	t.state, t.started = executing, now
	l.running.push(t)
	l.executing++
	l.busy += t.work.width()
	l.dispatched++
	t.stats.dispatched++
	t.stats.executing++
	t.stats.busy += t.work.width()
	if t.queue < 0 {
		return
	}
	q := &l.queue[t.queue]
	q.next += t.work.guess()
	q.executing++
	q.busy += t.work.Seats
	q.began += float64(t.work.Seats) * now.Seconds()
	q.guess += float64(t.work.Seats) * guessInSeconds
}

// leave takes a waiting request out; false if it was dispatched before.
func (l *level) leave(now time.Duration, t *Ticket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.state != waiting {
		return false
	}
	l.advance(now)
	for at, i := range l.backlog {
		if i == t.queue {
			l.unqueue(t, at)
			break
		}
	}
	l.deactivate(&l.queue[t.queue])
	l.rejected++
	l.cancelled++
	t.stats.rejected[timeOut]++
	t.stats.waited(true, now-t.arrived)
	l.dispatch(now) // it may have been in the way of narrower ones
	l.idle()
	l.use.changed(l)
	return true
}

// finish takes back the seats of a request that was carried out, but for final ones: if it has some it returns true, and
// release must follow.
func (l *level) finish(now time.Duration, t *Ticket) (final bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	took := now - t.started
	final = t.work.Final > 0 && t.work.Extra > 0 && !l.shape.exempt
	t.stats.ran(&t.request, took)
	if t.queue >= 0 {
		q := &l.queue[t.queue]
		q.next += float64(t.work.Seats) * (took.Seconds() - guessInSeconds)
		q.executing--
		q.busy -= t.work.Seats
		q.began -= float64(t.work.Seats) * t.started.Seconds()
		q.guess -= float64(t.work.Seats) * guessInSeconds
		l.deactivate(q)
	}
	if final {
		t.state = padding
		l.takeBack(t, t.work.width()-t.work.Final)
	} else {
		l.end(t, t.work.width())
	}
	l.dispatch(now)
	l.idle()
	l.use.changed(l)
	return final
}

// release takes back the final seats.
func (l *level) release(now time.Duration, t *Ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	l.end(t, t.work.Final)
	l.dispatch(now)
	l.idle()
	l.use.changed(l)
}

func (l *level) takeBack(t *Ticket, seats int) {
	l.busy -= seats
	t.stats.busy -= seats
}

func (l *level) end(t *Ticket, seats int) {
	l.takeBack(t, seats)
	l.running.remove(t)
	l.executing--
	t.stats.executing--
}

// idle begins a new epoch of virtual time when there is nothing to do.
func (l *level) idle() {
	if l.executing > 0 || l.waiting > 0 {
		return
	}
	l.epoch++
	l.r = 0
	if len(l.queue) > l.count { // the level was made smaller
		l.queue = nil
	}
}

// advance brings virtual time and statistics up to now.
func (l *level) advance(now time.Duration) {
	passed := now - l.at
	if passed <= 0 {
		return
	}
	l.at = now
	if l.active > 0 {
		l.r += passed.Seconds() * float64(l.busy) / float64(l.active)
	}
	l.demand.add(l.busy+l.waitingSeats, passed)
	l.use.add(passed)
}
