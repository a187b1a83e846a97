// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

// Package measure keeps the figures that the API server tells at /metrics, under Kubernetes' names.
//
// A figure is an atomic number that whoever counts holds a pointer to: counting takes a few nanoseconds and no memory.
// Names, labels and Prometheus' own types come into being when somebody reads them. The package knows nothing of what it
// counts. Start with New and Set.
package measure

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Counter counts up. The zero value is ready; all methods may be called at once.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is the count so far.
func (c *Counter) Value() uint64 { return c.n.Load() }

// Gauge goes up and down. The zero value is ready.
type Gauge struct{ n atomic.Int64 }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.n.Add(n) }

// Set makes it n.
func (g *Gauge) Set(n int64) { g.n.Store(n) }

// Value is the current value.
func (g *Gauge) Value() int64 { return g.n.Load() }

// Buckets are the upper bounds of a histogram. Durations are counted in nanoseconds and told in seconds.
type Buckets struct {
	bounds []int64
	told   []float64
	unit   float64 // what one is worth when it is told
}

// Seconds are buckets for durations, given in seconds.
func Seconds(bounds ...float64) *Buckets {
	b := &Buckets{told: bounds, unit: 1e-9}
	for _, s := range bounds {
		b.bounds = append(b.bounds, int64(s*1e9+0.5))
	}
	return b
}

// Numbers are buckets for sizes and counts.
func Numbers(bounds ...int64) *Buckets {
	b := &Buckets{bounds: bounds, unit: 1}
	for _, n := range bounds {
		b.told = append(b.told, float64(n))
	}
	return b
}

// Histogram counts values by size.
type Histogram struct {
	of     *Buckets
	counts []atomic.Uint64 // one more than bounds
	sum    atomic.Int64
}

// NewHistogram returns an empty histogram.
func NewHistogram(of *Buckets) *Histogram {
	return &Histogram{of: of, counts: make([]atomic.Uint64, len(of.bounds)+1)}
}

// Observe counts a value, in the unit of the buckets.
func (h *Histogram) Observe(v int64) {
	i := 0
	for i < len(h.of.bounds) && v > h.of.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(v)
}

// Took counts a duration.
func (h *Histogram) Took(d time.Duration) { h.Observe(int64(d)) }

// Count is how many values were counted.
func (h *Histogram) Count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// read is the histogram as Prometheus has it.
func (h *Histogram) read() (count uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(h.of.bounds))
	for i, bound := range h.of.told {
		count += h.counts[i].Load()
		buckets[bound] = count
	}
	count += h.counts[len(h.of.bounds)].Load()
	return count, float64(h.sum.Load()) * h.of.unit, buckets
}

// maxCells bounds how many combinations of labels a family has; what comes later is not told.
const maxCells = 10000

// Family is a metric with labels.
type Family[C Counter | Gauge | Histogram] struct {
	name, help string
	labels     []string
	make       func() *C

	// cells are replaced, never changed.
	cells atomic.Pointer[map[string]*cell[C]]
	mu    sync.Mutex // held to replace cells
}

type cell[C any] struct {
	values []string
	of     *C
}

// With returns the figure with these values of the labels. Keep it where it is counted often.
func (f *Family[C]) With(values ...string) *C {
	var room [192]byte
	key := room[:0]
	for _, v := range values {
		key = append(append(key, v...), 0xff)
	}
	if c := f.all()[string(key)]; c != nil {
		return c.of
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.all()
	if c := now[string(key)]; c != nil {
		return c.of
	}
	if len(values) != len(f.labels) {
		panic("measure: " + f.name + " has labels " + strings.Join(f.labels, ", ") + ", got values " + strings.Join(values, ", "))
	}
	c := &cell[C]{of: f.make()}
	if len(now) >= maxCells {
		return c.of
	}
	for _, v := range values {
		c.values = append(c.values, strings.Clone(v)) // it may be a part of a request
	}
	next := make(map[string]*cell[C], len(now)+1)
	maps.Copy(next, now)
	next[string(key)] = c
	f.cells.Store(&next)
	return c.of
}

func (f *Family[C]) all() map[string]*cell[C] {
	if cells := f.cells.Load(); cells != nil {
		return *cells
	}
	return nil
}

// Collect implements part of prometheus.Collector.
func (f *Family[C]) Collect(out chan<- prometheus.Metric) {
	cells := f.all()
	if len(cells) == 0 {
		return
	}
	desc := prometheus.NewDesc(f.name, f.help, f.labels, nil)
	for _, c := range cells {
		out <- metric(desc, c.of, c.values)
	}
}

// metric is a figure as Prometheus has it.
func metric(desc *prometheus.Desc, figure any, values []string) prometheus.Metric {
	switch figure := figure.(type) {
	case *Counter:
		return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(figure.Value()), values...)
	case *Gauge:
		return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(figure.Value()), values...)
	case *Histogram:
		count, sum, buckets := figure.read()
		return prometheus.MustNewConstHistogram(desc, count, sum, buckets, values...)
	}
	panic("measure: no figure")
}

// Set is the figures of one server. It is a prometheus.Collector.
type Set struct {
	mu       sync.Mutex
	families []interface {
		Collect(chan<- prometheus.Metric)
	}
}

// add puts a family into the set.
func add[C Counter | Gauge | Histogram](s *Set, f *Family[C]) *Family[C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.families = append(s.families, f)
	if len(f.labels) == 0 {
		f.With() // Kubernetes tells those without labels from the start
	}
	return f
}

// Counters adds a family of counters.
func (s *Set) Counters(name, help string, labels ...string) *Family[Counter] {
	return add(s, &Family[Counter]{name: name, help: help, labels: labels, make: func() *Counter { return new(Counter) }})
}

// Gauges adds a family of gauges.
func (s *Set) Gauges(name, help string, labels ...string) *Family[Gauge] {
	return add(s, &Family[Gauge]{name: name, help: help, labels: labels, make: func() *Gauge { return new(Gauge) }})
}

// Histograms adds a family of histograms.
func (s *Set) Histograms(of *Buckets, name, help string, labels ...string) *Family[Histogram] {
	return add(s, &Family[Histogram]{name: name, help: help, labels: labels, make: func() *Histogram { return NewHistogram(of) }})
}

// reading is a family that is read elsewhere.
type reading struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	read       func(tell func(v float64, values ...string))
}

// Collect implements part of prometheus.Collector.
func (f *reading) Collect(out chan<- prometheus.Metric) {
	desc := prometheus.NewDesc(f.name, f.help, f.labels, nil)
	f.read(func(v float64, values ...string) {
		out <- prometheus.MustNewConstMetric(desc, f.kind, v, values...)
	})
}

// Read adds a family of gauges whose values are found out when somebody asks.
func (s *Set) Read(name, help string, labels []string, read func(tell func(v float64, values ...string))) {
	s.readAs(prometheus.GaugeValue, name, help, labels, read)
}

// ReadCounters is Read for counters.
func (s *Set) ReadCounters(name, help string, labels []string, read func(tell func(v float64, values ...string))) {
	s.readAs(prometheus.CounterValue, name, help, labels, read)
}

func (s *Set) readAs(kind prometheus.ValueType, name, help string, labels []string, read func(tell func(v float64, values ...string))) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.families = append(s.families, &reading{name: name, help: help, kind: kind, labels: labels, read: read})
}

// Describe implements prometheus.Collector: nothing is known before it is read.
func (s *Set) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s *Set) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	families := slices.Clone(s.families)
	s.mu.Unlock()
	for _, f := range families {
		f.Collect(out)
	}
}
