// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Dump writes one of the tables that people see below /debug/api_priority_and_fairness/: dump_priority_levels, dump_queues or
// dump_requests, the last with all about the requests if details are wanted. It returns false for others.
func (c *Controller) Dump(w io.Writer, name string, details bool) bool {
	var head []string
	var rows func(*level) [][]string
	switch name {
	case "dump_priority_levels":
		head = []string{"PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
			"DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests"}
		rows = (*level).summary
	case "dump_queues":
		head = []string{"PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR",
			"InitialSeatsSum", "MaxSeatsSum", "TotalWorkSum"}
		rows = (*level).queueRows
	case "dump_requests":
		head = []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistingsher", "ArriveTime",
			"InitialSeats", "FinalSeats", "AdditionalLatency", "StartTime"}
		if details {
			head = append(head, "UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource")
		}
		rows = func(l *level) [][]string { return l.requestRows(c.base, details) }
	default:
		return false
	}
	table := tabwriter.NewWriter(w, 8, 0, 1, ' ', 0)
	fmt.Fprintln(table, strings.Join(head, ",\t"))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.levels)) {
		l := c.levels[name]
		l.mu.Lock()
		l.advance(c.now())
		all := rows(l)
		l.mu.Unlock()
		for _, row := range all {
			fmt.Fprintln(table, strings.Join(row, ",\t"))
		}
	}
	_ = table.Flush() // whoever reads has gone
	return true
}

func cells(values ...any) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = fmt.Sprint(v)
	}
	return out
}

func (l *level) summary() [][]string {
	idle := l.executing == 0 && l.waiting == 0
	// Requests that waited too long count as refused and cancelled, as observed in Kubernetes.
	return [][]string{cells(l.name, len(l.backlog), idle, l.quiescing, l.waiting, l.executing, l.dispatched, l.rejected, 0, l.cancelled)}
}

func (l *level) queueRows() (rows [][]string) {
	for i := range max(l.count, len(l.queue)) {
		var q queue
		if i < len(l.queue) {
			q = l.queue[i]
		}
		first, most, work := 0, 0, 0.0
		for t := q.first; t != nil; t = t.next {
			first += t.work.Seats
			most += t.work.width()
			work += t.work.guess()
		}
		next := q.next
		if q.epoch != l.epoch {
			next = 0
		}
		rows = append(rows, cells(l.name, i, q.length, q.executing, q.busy, seatSeconds(next), first, most, seatSeconds(work)))
	}
	return rows
}

func seatSeconds(x float64) string { return fmt.Sprintf("%.8fss", x) }

func (l *level) requestRows(base time.Time, details bool) (rows [][]string) {
	names := map[*stats]string{}
	for name, s := range l.stats {
		names[s] = name
	}
	row := func(t *Ticket, at int) {
		moment := func(d time.Duration) string { return base.Add(d).UTC().Format(time.RFC3339Nano) }
		started := time.Time{}.Format(time.RFC3339Nano)
		if t.state != waiting {
			started = moment(t.started)
		}
		cs := cells(l.name, names[t.stats], t.queue, at, t.flow, moment(t.arrived), t.work.Seats, t.work.Final, t.work.Extra, started)
		if r := &t.request; details {
			cs = append(cs, cells(r.User.Name, r.Verb, r.Path, r.Namespace, r.Name, r.Version, r.Resource, r.Subresource)...)
		}
		rows = append(rows, cs)
	}
	for i := range l.queue {
		at := 0
		for t := l.queue[i].first; t != nil; t = t.next {
			row(t, at)
			at++
		}
	}
	for t := l.running.first; t != nil; t = t.next {
		row(t, -1)
	}
	return rows
}
