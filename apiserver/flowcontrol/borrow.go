// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"maps"
	"math"
	"slices"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"knarr.dev/api/flowcontrol"
)

// adjustInterval is how often seats are moved between levels.
const adjustInterval = 10 * time.Second

// smoothing is what stays of a demand that has gone after one interval: half of it is left after five minutes.
const smoothing = 0.977

// demand is how many seats a level could have used in the current interval, and before.
type demand struct {
	sum, squares float64 // times seconds
	seconds      float64
	high         int

	// What follows is of the last interval that has ended.
	average, deviation, smoothed float64
	highest                      int
}

func (d *demand) add(wanted int, passed time.Duration) {
	x, seconds := float64(wanted), passed.Seconds()
	d.sum += x * seconds
	d.squares += x * x * seconds
	d.seconds += seconds
	d.high = max(d.high, wanted)
}

// end closes the interval; wanted is the demand at this moment.
func (d *demand) end(wanted int) {
	if d.seconds > 0 {
		d.average = d.sum / d.seconds
		d.deviation = math.Sqrt(max(0, d.squares/d.seconds-d.average*d.average))
	}
	d.highest = max(d.high, wanted)
	envelope := d.average + d.deviation
	d.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
	d.sum, d.squares, d.seconds, d.high = 0, 0, 0, wanted
}

// adjust closes an interval and moves seats to where they were wanted.
func (c *Controller) adjust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for name, l := range c.levels {
		l.mu.Lock()
		l.advance(now)
		l.demand.end(l.busy + l.waitingSeats)
		gone := l.quiescing && l.executing == 0 && l.waiting == 0
		l.mu.Unlock()
		if gone {
			delete(c.levels, name)
		}
	}
	c.allocate()
}

// allocate gives each level its current limit; c.mu is held.
//
// See KEP-1040, "Dispatching": a level gets at least what it used of its nominal limit, at most what it may borrow, and between
// these in proportion to its smoothed demand.
func (c *Controller) allocate() {
	var wishes []wish
	var takers []*level
	total, places := 0, 0
	for _, name := range slices.Sorted(maps.Keys(c.levels)) {
		l := c.levels[name]
		l.mu.Lock()
		switch {
		case l.quiescing:
		case l.shape.exempt:
			l.limit = max(l.least, l.demand.highest)
		default:
			low := max(l.least, min(l.nominal, l.demand.highest))
			wishes = append(wishes, wish{low: float64(low), high: float64(l.most), target: max(float64(low), l.demand.smoothed)})
			takers = append(takers, l)
		}
		total += l.nominal
		if l.queues && !l.quiescing {
			places += l.count * l.longest
		}
		l.mu.Unlock()
	}
	fair, given := share(float64(total), wishes)
	c.fair = fair
	now := c.now()
	for i := range c.kinds {
		c.kinds[i].resize(now, total, places)
	}
	for i, l := range takers {
		l.mu.Lock()
		l.advance(now)
		l.limit = int(math.Round(given[i]))
		l.dispatch(now)
		l.use.changed(l)
		l.mu.Unlock()
	}
}

// wish is what a level may get of the seats.
type wish struct{ low, high, target float64 }

func (w wish) at(fraction float64) float64 { return min(max(w.low, fraction*w.target), w.high) }

// share gives everyone the same fraction of their target, within their bounds, so that the total is given away if it can be.
func share(total float64, wishes []wish) (fraction float64, given []float64) {
	given = make([]float64, len(wishes))
	sum := func(fraction float64) (s float64) {
		for _, w := range wishes {
			s += w.at(fraction)
		}
		return s
	}
	corners := []float64{0}
	for _, w := range wishes {
		if w.target > 0 {
			corners = append(corners, w.low/w.target, w.high/w.target)
		}
	}
	slices.Sort(corners)
	fraction = corners[len(corners)-1] // all that may be had, if there is so much
	for i, right := range corners {
		have := sum(right)
		if have < total {
			continue
		}
		fraction = right
		if i > 0 {
			left := corners[i-1]
			if before := sum(left); have > before {
				fraction = left + (right-left)*(total-before)/(have-before)
			}
		}
		break
	}
	for i, w := range wishes {
		given[i] = w.at(fraction)
	}
	return fraction, given
}

// Configure takes over the objects. Those that must exist are added if they are missing. Requests that wait or run stay where they are.
func (c *Controller) Configure(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	mandatorySchemas, mandatoryLevels := flowcontrol.Mandatory()
	for _, m := range mandatorySchemas {
		if !slices.ContainsFunc(schemas, func(o *flowcontrolv1.FlowSchema) bool { return o.Name == m.Name }) {
			schemas = append(slices.Clip(schemas), m)
		}
	}
	for _, m := range mandatoryLevels {
		if !slices.ContainsFunc(levels, func(o *flowcontrolv1.PriorityLevelConfiguration) bool { return o.Name == m.Name }) {
			levels = append(slices.Clip(levels), m)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	shapes := make([]shape, len(levels))
	shares := 0
	for i, o := range levels {
		shapes[i] = shapeOf(o)
		shares += int(shapes[i].shares)
	}
	known := make(map[string]*level, len(levels))
	for i, o := range levels {
		l := c.levels[o.Name]
		if l == nil {
			l = &level{name: o.Name, at: c.now(), stats: map[string]*stats{}, use: newUtilization(c.bounds)}
			c.levels[o.Name] = l
		}
		l.uid = string(o.UID)
		l.reshape(c.seats, shares, shapes[i])
		known[o.Name] = l
	}
	for name, l := range c.levels {
		if known[name] == nil {
			l.mu.Lock()
			l.quiescing, l.nominal = true, 0
			l.mu.Unlock()
		}
	}
	c.allocate()
	wanted := map[*level]map[string]bool{}
	for _, o := range schemas {
		if l := known[o.Spec.PriorityLevelConfiguration.Name]; l != nil {
			if wanted[l] == nil {
				wanted[l] = map[string]bool{}
			}
			wanted[l][o.Name] = true
		}
	}
	for _, l := range known {
		l.keepStats(wanted[l], c.bounds)
	}
	c.table.Store(compile(schemas, known))
}

// reshape gives a level its configuration: seats is what the server has, for so many shares.
func (l *level) reshape(seats, shares int, s shape) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shape, l.quiescing = s, false
	l.nominal = 0
	if shares > 0 {
		l.nominal = (seats*int(s.shares) + shares - 1) / shares
	}
	percent := func(p int32) int { return int(math.Round(float64(l.nominal) * float64(p) / 100)) }
	l.least = l.nominal - percent(s.lendable)
	l.most = l.nominal + seats
	if s.borrowing != nil {
		l.most = l.nominal + percent(*s.borrowing)
	}
	if s.exempt {
		l.widest.Store(maxSeats)
	} else {
		l.widest.Store(int64(widest(l.nominal, s.hand)))
	}
	l.exempt.Store(s.exempt)
	l.use.shape(l)
	l.use.changed(l)
}

func shapeOf(o *flowcontrolv1.PriorityLevelConfiguration) shape {
	value := func(p *int32) int32 {
		if p == nil {
			return 0
		}
		return *p
	}
	if e := o.Spec.Exempt; o.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt {
		s := shape{exempt: true}
		if e != nil {
			s.shares, s.lendable = value(e.NominalConcurrencyShares), value(e.LendablePercent)
		}
		return s
	}
	p := o.Spec.Limited
	if p == nil {
		return shape{}
	}
	s := shape{shares: value(p.NominalConcurrencyShares), lendable: value(p.LendablePercent), borrowing: p.BorrowingLimitPercent}
	if q := p.LimitResponse.Queuing; p.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue && q != nil {
		s.queues, s.hand, s.longest = true, int(q.HandSize), int(q.QueueLengthLimit)
		s.count = max(1, min(int(q.Queues), maxQueues))
	}
	return s
}
