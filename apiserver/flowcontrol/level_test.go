// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// newLevel is a level with queues, or one that refuses if there are none.
func newLevel(seats, queues, hand, longest int) *level {
	l := &level{name: "l", stats: map[string]*stats{}, use: newUtilization(newBounds())}
	l.limit, l.nominal = seats, seats
	if queues > 0 {
		l.shape = shape{queues: true, count: queues, hand: hand, longest: longest}
	}
	l.use.shape(l)
	return l
}

// world carries out requests in virtual time.
type world struct {
	level *level
	stats *stats
	now   time.Duration
	ends  ends
	// served is how many seat seconds each flow got.
	served map[string]float64
	next   func(w *world, t *Ticket) // a request ended
}

type end struct {
	at      time.Duration
	t       *Ticket
	release bool
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at < e[j].at }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newWorld(l *level) *world {
	return &world{level: l, stats: newStats(newBounds()), served: map[string]float64{}}
}

// arrive brings a request; it lasts as long as its Path says.
func (w *world) arrive(flow string, lasts time.Duration, work Work) (*Ticket, state) {
	t := &Ticket{level: w.level, stats: w.stats, work: work, flow: flow, queue: -1, ready: make(chan struct{}, 1), request: Request{Path: lasts.String()}}
	s := w.level.arrive(w.now, t, mix(extend(fnvOffset, flow)))
	if s == executing {
		w.begin(t)
	}
	return t, s
}

func (w *world) begin(t *Ticket) {
	lasts, _ := time.ParseDuration(t.request.Path)
	heap.Push(&w.ends, end{at: w.now + lasts, t: t})
}

// step goes to the next end of a request; all are waiting requests that may have been dispatched by it.
func (w *world) step(all *[]*Ticket) bool {
	if len(w.ends) == 0 {
		return false
	}
	e := heap.Pop(&w.ends).(end)
	w.now = e.at
	w.served[e.t.flow] += (w.now - e.t.started).Seconds() * float64(e.t.work.Seats)
	if e.release {
		w.level.release(w.now, e.t)
	} else if w.level.finish(w.now, e.t) {
		heap.Push(&w.ends, end{at: w.now + e.t.work.Extra, t: e.t, release: true})
	}
	w.dispatched(all)
	if w.next != nil && !e.release {
		w.next(w, e.t)
	}
	return true
}

func (w *world) dispatched(all *[]*Ticket) {
	kept := (*all)[:0]
	for _, t := range *all {
		select {
		case <-t.ready:
			w.begin(t)
		default:
			kept = append(kept, t)
		}
	}
	*all = kept
}

// TestEqualService: whatever the flows ask for, those that always have requests waiting get the same service.
func TestEqualService(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seats := rapid.IntRange(1, 8).Draw(t, "seats")
		w := newWorld(newLevel(seats, 64, 1, 10000))
		flows := []string{"greedy", "modest"}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		if w.queueOf("greedy") == w.queueOf("modest") {
			t.Skip("both flows have one queue")
		}
		var waits []*Ticket
		add := func(flow string, width int) {
			if ticket, s := w.arrive(flow, time.Duration(1+random.IntN(50))*time.Millisecond, Work{Seats: width}); s == waiting {
				waits = append(waits, ticket)
			}
		}
		widths := map[string]int{"greedy": rapid.IntRange(1, seats).Draw(t, "width"), "modest": 1}
		w.next = func(w *world, ended *Ticket) { add(ended.flow, widths[ended.flow]) }
		for range 200 {
			add("greedy", widths["greedy"])
		}
		for range 2 * seats {
			add("modest", 1)
		}
		for range 600 {
			w.step(&waits)
		}
		got, other := w.served[flows[0]], w.served[flows[1]]
		// Service is given in whole requests, and to as many at once as there are seats.
		slack := 0.05 * float64(4*seats) * float64(widths["greedy"])
		if got > other+slack+0.1*other || other > got+slack+0.1*got {
			t.Fatalf("%d seats: the greedy flow got %.3f seat seconds, the other %.3f", seats, got, other)
		}
	})
}

func (w *world) queueOf(flow string) int32 {
	var hand [maxHand]int32
	deal(mix(extend(fnvOffset, flow)), w.level.count, w.level.hand, &hand)
	return hand[0]
}

// TestMice: a flow with few requests hardly waits for one with many, even if those are long.
func TestMice(t *testing.T) {
	w := newWorld(newLevel(4, 128, 6, 50))
	var waits []*Ticket
	elephant := func() {
		if ticket, s := w.arrive("elephant", 100*time.Millisecond, One()); s == waiting {
			waits = append(waits, ticket)
		}
	}
	for range 400 {
		elephant()
	}
	if w.stats.rejected[queueFull] == 0 || w.level.waiting != 300 {
		t.Fatalf("%d wait, %d were refused; a hand holds 6 × 50", w.level.waiting, w.stats.rejected[queueFull])
	}
	w.next = func(_ *world, ended *Ticket) {
		if ended.flow == "elephant" {
			elephant()
		}
	}
	longest := time.Duration(0)
	for i := range 50 {
		for range 7 {
			w.step(&waits)
		}
		mouse, s := w.arrive(fmt.Sprintf("mouse-%d", i%3), time.Millisecond, One())
		if s == waiting {
			waits = append(waits, mouse)
			for mouse.state == waiting {
				w.step(&waits)
			}
			longest = max(longest, mouse.started-mouse.arrived)
		}
	}
	if longest > 100*time.Millisecond {
		t.Errorf("a mouse waited %s, longer than one request of the elephant", longest)
	}
}

// TestSeats follows random histories: seats are never lost nor given twice, and nothing waits while there is room.
func TestSeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seats, queues := rapid.IntRange(0, 5).Draw(t, "seats"), rapid.IntRange(0, 4).Draw(t, "queues")
		l := newLevel(seats, queues, 1, rapid.IntRange(1, 4).Draw(t, "longest"))
		w := newWorld(l)
		var waits []*Ticket
		for range 60 {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				work := Work{Seats: rapid.IntRange(1, 3).Draw(t, "width")}
				if rapid.Bool().Draw(t, "write") {
					work = Write(rapid.IntRange(0, 60).Draw(t, "watchers"), 5)
				}
				flow := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "flow")
				if ticket, s := w.arrive(flow, time.Duration(rapid.IntRange(0, 9).Draw(t, "lasts"))*time.Millisecond, work); s == waiting {
					waits = append(waits, ticket)
				}
			case 2:
				w.step(&waits)
			case 3:
				if len(waits) > 0 {
					i := rapid.IntRange(0, len(waits)-1).Draw(t, "which")
					ticket := waits[i]
					waits = append(waits[:i], waits[i+1:]...)
					if !l.leave(w.now, ticket) {
						t.Fatal("a waiting request had been dispatched")
					}
					w.dispatched(&waits)
				}
			}
			w.check(t, waits)
		}
		for w.step(&waits) {
			w.check(t, waits)
		}
		if l.busy != 0 || l.executing != 0 || l.running.length != 0 || seats > 0 && l.waiting != 0 {
			t.Fatalf("at the end %d seats are taken, %d requests run and %d wait", l.busy, l.executing, l.waiting)
		}
	})
}

func (w *world) check(t *rapid.T, waits []*Ticket) {
	l, busy, longest := w.level, 0, 0
	for r := l.running.first; r != nil; r = r.next {
		if r.state == padding {
			busy += r.work.Final
		} else {
			busy += r.work.width()
		}
	}
	active := 0
	for i := range l.queue {
		q := &l.queue[i]
		longest = max(longest, q.length)
		if q.length > 0 || q.executing > 0 {
			active++
		}
	}
	switch {
	case busy != l.busy || w.stats.busy != busy:
		t.Fatalf("%d seats are counted, %d taken", l.busy, busy)
	case l.busy > l.limit && l.executing > 1:
		t.Fatalf("%d of %d seats are taken", l.busy, l.limit)
	case l.waiting != len(waits) || longest > l.longest || active != l.active:
		t.Fatalf("%d wait, want %d; the longest queue has %d of %d; %d are active, want %d", l.waiting, len(waits), longest, l.longest, l.active, active)
	case l.waiting > 0 && l.busy == 0 && l.limit > 0:
		t.Fatal("requests wait for seats that nobody has")
	}
}

func TestRefusingLevel(t *testing.T) {
	w := newWorld(newLevel(0, 0, 0, 0))
	if _, s := w.arrive("a", time.Second, One()); s != executing {
		t.Error("a level without seats refuses even its first request")
	}
	if _, s := w.arrive("a", time.Second, One()); s != refused || w.stats.rejected[concurrencyLimit] != 1 {
		t.Error("a full level took a request")
	}
}

func TestFinalSeats(t *testing.T) {
	w := newWorld(newLevel(5, 4, 1, 10))
	var waits []*Ticket
	work := Write(45, 10)
	if work != (Work{Seats: 1, Final: 5, Extra: 5 * time.Millisecond, told: 46}) {
		t.Fatalf("work of a write that 45 watchers see: %+v", work)
	}
	w.arrive("a", time.Millisecond, work)
	b, s := w.arrive("b", time.Millisecond, One())
	if s != waiting {
		t.Fatal("seats for the time after a write were given away")
	}
	waits = append(waits, b)
	w.step(&waits)
	if b.state != waiting {
		t.Fatal("final seats were given back with the answer")
	}
	w.step(&waits)
	if b.state != executing || b.started != 6*time.Millisecond {
		t.Errorf("the next request began at %s", b.started)
	}
}
