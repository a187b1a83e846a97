// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	levelLabel  = "priority_level"
	schemaLabel = "flow_schema"
)

// Collector returns the controller's metrics, under the names that they have in Kubernetes. They cost nothing until they are
// collected.
func (c *Controller) Collector() prometheus.Collector {
	ofSchema := []string{levelLabel, schemaLabel}
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("apiserver_flowcontrol_"+name, help, labels, nil)
	}
	l := func(name, help string) *prometheus.Desc { return d(name, help, levelLabel) }
	s := func(name, help string, more ...string) *prometheus.Desc {
		return d(name, help, append(slices.Clone(ofSchema), more...)...)
	}
	return &collector{
		controller: c,
		executing:  s("current_executing_requests", "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem"),
		busy:       s("current_executing_seats", "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem"),
		waiting:    s("current_inqueue_requests", "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem"),
		waitSeats:  s("current_inqueue_seats", "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem"),
		dispatched: s("dispatched_requests_total", "[BETA] Number of requests executed by API Priority and Fairness subsystem"),
		rejected:   s("rejected_requests_total", "[BETA] Number of requests rejected by API Priority and Fairness subsystem", "reason"),
		unfit:      s("request_dispatch_no_accommodation_total", "[ALPHA] Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats"),
		waits:      s("request_wait_duration_seconds", "[BETA] Length of time a request spent waiting in its queue", "execute"),
		runs:       s("request_execution_seconds", "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem", "type"),
		length:     s("request_queue_length_after_enqueue", "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued"),
		estimated:  s("work_estimated_seats", "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness"),
		watchers:   s("watch_count_samples", "[ALPHA] count of watchers for mutating requests in API Priority and Fairness"),
		limit:      l("current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level"),
		nominal:    l("nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level"),
		least:      l("lower_limit_seats", "[ALPHA] Configured lower bound on number of execution seats available to each priority level"),
		most:       l("upper_limit_seats", "[ALPHA] Configured upper bound on number of execution seats available to each priority level"),
		r:          l("current_r", "[ALPHA] R(time of last change)"),
		average:    l("demand_seats_average", "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats"),
		deviation:  l("demand_seats_stdev", "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats"),
		highest:    l("demand_seats_high_watermark", "[ALPHA] High watermark, over last adjustment period, of demand_seats"),
		smoothed:   l("demand_seats_smoothed", "[ALPHA] Smoothed seat demands"),
		target:     l("target_seats", "[ALPHA] Seat allocation targets"),
		demand:     l("demand_seats", "EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)"),
		seatUse:    d("priority_level_seat_utilization", "EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)", "phase", levelLabel),
		requestUse: d("priority_level_request_utilization", "EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)", "phase", levelLabel),
		reached:    l("dispatch_r", "[ALPHA] R(time of last dispatch)"),
		served:     l("latest_s", "[ALPHA] S(most recently dispatched request)"),
		next:       d("next_s_bounds", "[ALPHA] min and max, over queues, of S(oldest waiting request in queue)", "bound", levelLabel),
		discounted: d("next_discounted_s_bounds", "[ALPHA] min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress", "bound", levelLabel),
		kinds:      d("read_vs_write_current_requests", "EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution", "phase", "request_kind"),
		fair:       d("seat_fair_frac", "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level that can use it"),
	}
}

type collector struct {
	controller *Controller

	executing, busy, waiting, waitSeats, dispatched, rejected, unfit *prometheus.Desc
	waits, runs, length, estimated, watchers                         *prometheus.Desc
	limit, nominal, least, most, r                                   *prometheus.Desc
	average, deviation, highest, smoothed, target                    *prometheus.Desc
	demand, seatUse, requestUse, fair, kinds                         *prometheus.Desc
	reached, served, next, discounted                                *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (m *collector) Describe(ch chan<- *prometheus.Desc) { ch <- m.fair }

// Collect implements prometheus.Collector.
func (m *collector) Collect(ch chan<- prometheus.Metric) {
	c := m.controller
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []prometheus.Metric
	for _, name := range slices.Sorted(maps.Keys(c.levels)) {
		out = m.level(out, c.levels[name], c)
	}
	out = append(out, prometheus.MustNewConstMetric(m.fair, prometheus.GaugeValue, c.fair))
	for i, name := range []string{"readOnly", "mutating"} {
		out = m.kind(out, &c.kinds[i], c, name)
	}
	for _, metric := range out {
		ch <- metric
	}
}

func (m *collector) level(out []prometheus.Metric, l *level, c *Controller) []prometheus.Metric {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(c.now())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	low := max(l.least, min(l.nominal, l.demand.highest))
	for d, v := range map[*prometheus.Desc]float64{
		m.limit: float64(l.limit), m.nominal: float64(l.nominal), m.least: float64(l.least), m.most: float64(l.most), m.r: l.r,
		m.average: l.demand.average, m.deviation: l.demand.deviation, m.highest: float64(l.demand.highest),
		m.smoothed: l.demand.smoothed, m.target: max(float64(low), l.demand.smoothed),
	} {
		gauge(d, v, l.name)
	}
	out = append(out, l.use.demand.metric(m.demand, l.name), l.use.seats.metric(m.seatUse, "executing", l.name),
		l.use.executing.metric(m.requestUse, "executing", l.name), l.use.waiting.metric(m.requestUse, "waiting", l.name))
	if t := &l.turns; t.served {
		gauge(m.reached, t.r, l.name)
		gauge(m.served, t.s, l.name)
		for i, bound := range []string{"min", "max"} {
			gauge(m.next, t.next[i], bound, l.name)
			gauge(m.discounted, t.discounted[i], bound, l.name)
		}
	}
	for name, s := range l.stats {
		if s.used() {
			out = m.schema(out, s, l.name, name)
		}
	}
	return out
}

func (m *collector) kind(out []prometheus.Metric, t *traffic, c *Controller, name string) []prometheus.Metric {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(c.now())
	return append(out, t.use[carriedOut].metric(m.kinds, "executing", name), t.use[waitsForTurn].metric(m.kinds, "waiting", name))
}

func (m *collector) schema(out []prometheus.Metric, s *stats, level, name string) []prometheus.Metric {
	value := func(t prometheus.ValueType, d *prometheus.Desc, v float64, more ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, t, v, append([]string{level, name}, more...)...))
	}
	value(prometheus.GaugeValue, m.executing, float64(s.executing))
	value(prometheus.GaugeValue, m.busy, float64(s.busy))
	value(prometheus.GaugeValue, m.waiting, float64(s.waiting))
	value(prometheus.GaugeValue, m.waitSeats, float64(s.waitingSeats))
	value(prometheus.CounterValue, m.dispatched, float64(s.dispatched))
	if s.unfit > 0 {
		value(prometheus.CounterValue, m.unfit, float64(s.unfit))
	}
	for why, n := range s.rejected {
		if n > 0 {
			value(prometheus.CounterValue, m.rejected, float64(n), reason(why).String())
		}
	}
	histogram := func(d *prometheus.Desc, h *histogram, more ...string) {
		if !h.empty() {
			out = append(out, h.metric(d, append([]string{level, name}, more...)...))
		}
	}
	histogram(m.waits, &s.waits[0], "false")
	histogram(m.waits, &s.waits[1], "true")
	histogram(m.runs, &s.runs[0], "regular")
	histogram(m.runs, &s.runs[1], "watch")
	histogram(m.length, &s.length)
	histogram(m.estimated, &s.estimated)
	histogram(m.watchers, &s.watchers)
	return out
}

func (h *histogram) empty() bool {
	for _, n := range h.counts {
		if n > 0 {
			return false
		}
	}
	return true
}

func (h *histogram) metric(d *prometheus.Desc, labels ...string) prometheus.Metric {
	buckets, n := make(map[float64]uint64, len(h.bounds)), uint64(0)
	for i, bound := range h.bounds {
		n += h.counts[i]
		buckets[bound] = n
	}
	return prometheus.MustNewConstHistogram(d, n+h.counts[len(h.bounds)], h.sum, buckets, labels...)
}
