// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import "time"

// reason is why a request was refused.
type reason int

const (
	queueFull reason = iota
	concurrencyLimit
	timeOut
	reasons
)

func (r reason) String() string {
	return [...]string{"queue-full", "concurrency-limit", "time-out"}[r]
}

// bounds are the bounds of the buckets of histograms, which are those of Kubernetes.
type bounds struct{ seconds, lengths, seats, watchers, demand, requests, use, kinds []float64 }

func newBounds() bounds {
	return bounds{
		seconds:  []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		lengths:  []float64{0, 10, 25, 50, 100, 250, 500, 1000},
		seats:    []float64{1, 2, 4, 8, 16, 32, 64, 100},
		watchers: []float64{0, 1, 10, 100, 1000, 10000},
		demand:   []float64{0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.7, 2, 2.8, 4, 6},
		requests: []float64{0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1},
		use:      []float64{0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1},
		kinds:    []float64{0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1},
	}
}

// histogram counts values, or the nanoseconds that a value had.
type histogram struct {
	bounds []float64
	counts []uint64 // one more than bounds
	sum    float64
}

func newHistogram(bounds []float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) bucket(v float64) int {
	i := 0
	for i < len(h.bounds) && v > h.bounds[i] {
		i++
	}
	return i
}

func (h *histogram) observe(v float64) {
	h.counts[h.bucket(v)]++
	h.sum += v
}

// stats are the figures of a schema in a level, guarded by the level's lock.
type stats struct {
	executing, busy, waiting, waitingSeats int
	dispatched, unfit                      uint64
	rejected                               [reasons]uint64

	waits     [2]histogram // of requests that were refused at once, and of others
	runs      [2]histogram // of requests, and of the beginnings of watches
	length    histogram    // of the queue that a request came to, with it
	estimated histogram    // seats
	watchers  histogram
}

func newStats(b bounds) *stats {
	s := &stats{length: newHistogram(b.lengths), estimated: newHistogram(b.seats), watchers: newHistogram(b.watchers)}
	for i := range s.waits {
		s.waits[i], s.runs[i] = newHistogram(b.seconds), newHistogram(b.seconds)
	}
	return s
}

func (s *stats) arrived(w *Work) {
	s.estimated.observe(float64(w.width()))
	if w.told > 0 {
		s.watchers.observe(float64(w.told - 1))
	}
}

func (s *stats) waited(execute bool, d time.Duration) {
	at := 0
	if execute {
		at = 1
	}
	s.waits[at].observe(max(d, 1).Seconds())
}

func (s *stats) ran(r *Request, d time.Duration) {
	at := 0
	if r.Verb == "watch" {
		at = 1
	}
	s.runs[at].observe(d.Seconds())
}

func (s *stats) used() bool {
	return s.dispatched > 0 || s.rejected != [reasons]uint64{} || s.waiting > 0
}

// statsOf returns the figures of a schema, which keepStats has made.
func (l *level) statsOf(schema string) *stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats[schema]
}

// keepStats keeps the figures of the schemas that lead to the level, and of those that still have requests.
func (l *level) keepStats(schemas map[string]bool, b bounds) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, s := range l.stats {
		if !schemas[name] && s.executing == 0 && s.waiting == 0 {
			delete(l.stats, name)
		}
	}
	for name := range schemas {
		if l.stats[name] == nil {
			l.stats[name] = newStats(b)
		}
	}
}

// gauge is a value with the time that it spent in each bucket.
type gauge struct {
	histogram
	value  float64
	within int
}

func newGauge(bounds []float64) gauge { return gauge{histogram: newHistogram(bounds)} }

func (g *gauge) add(passed time.Duration) {
	g.counts[g.within] += uint64(passed)
	g.sum += g.value * float64(passed)
}

func (g *gauge) set(v float64) {
	if v != g.value {
		g.value, g.within = v, g.bucket(v)
	}
}

// utilization is how much of a level was used, for how long.
type utilization struct {
	demand, executing, waiting, seats gauge
	nominal, places                   float64
}

func newUtilization(b bounds) utilization {
	return utilization{demand: newGauge(b.demand), executing: newGauge(b.requests), waiting: newGauge(b.requests), seats: newGauge(b.use)}
}

func (u *utilization) add(passed time.Duration) {
	u.demand.add(passed)
	u.executing.add(passed)
	u.waiting.add(passed)
	u.seats.add(passed)
}

// shape takes over the limits of the level, which are what values are fractions of.
func (u *utilization) shape(l *level) {
	u.nominal, u.places = float64(max(1, l.nominal)), float64(max(1, l.count*l.longest))
}

// changed takes over the state of the level.
func (u *utilization) changed(l *level) {
	limit := float64(max(1, l.limit))
	u.demand.set(float64(l.busy+l.waitingSeats) / u.nominal)
	u.executing.set(float64(l.executing) / limit)
	u.waiting.set(float64(l.waiting) / u.places)
	u.seats.set(float64(l.busy) / limit)
}
