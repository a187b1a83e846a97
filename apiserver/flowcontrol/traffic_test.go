// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// TestTraffic: requests that read and those that write are counted apart, as long as they are there.
func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := suggested()
		r := Request{User: user("amy"), Verb: "get", Resource: "pods", Path: "/"}
		ticket, err := c.Admit(t.Context(), c.Match(&r), &r, One(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		ticket.Done()
		time.Sleep(time.Second)
		seats, bounds := 0, c.kinds[0].use[carriedOut].bounds
		for _, l := range c.levels {
			seats += l.nominal
		}
		got := figure(t, c, "read_vs_write_current_requests", "executing", "readOnly")
		want := observed{sum: float64(2*time.Second) / float64(seats), count: uint64(3 * time.Second), least: uint64(time.Second), buckets: len(bounds)}
		if got != want {
			t.Errorf("executing: %v, want %v", got, want)
		}
		for _, labels := range [][]string{{"executing", "mutating"}, {"waiting", "readOnly"}, {"waiting", "mutating"}} {
			if h := figure(t, c, "read_vs_write_current_requests", labels...); h.sum != 0 || h.count == 0 {
				t.Errorf("%s: %v", labels, h)
			}
		}
	})
}

// TestTurns: what is told of virtual time is that of the last time that a request was served.
func TestTurns(t *testing.T) {
	l := newLevel(1, 2, 1, 10)
	w := newWorld(l)
	if l.turns.served {
		t.Fatal("served before the first request")
	}
	w.arrive("a", time.Second, One())
	if want := (turns{served: true}); l.turns != want {
		t.Fatalf("after the first request: %+v", l.turns)
	}
	other := "b"
	for w.queueOf(other) == w.queueOf("a") {
		other += "b"
	}
	waits := []*Ticket{}
	for _, flow := range []string{"a", other} {
		ticket, _ := w.arrive(flow, time.Second, One())
		waits = append(waits, ticket)
	}
	w.step(&waits)
	// The other queue gets its turn: its request would start at 0, that of the first queue after the second that it had.
	if s := l.turns; s.s != 0 || s.next != [2]float64{0, 1} || s.r <= 0 || s.discounted[0] > s.next[0] || s.discounted[1] > s.next[1] {
		t.Errorf("with two queues: %+v", s)
	}
}

// observed is what a histogram tells; least is the count of its first bucket.
type observed struct {
	sum          float64
	count, least uint64
	buckets      int
}

// figure returns the histogram of a name whose labels have these values.
func figure(t *testing.T, c *Controller, name string, values ...string) observed {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "apiserver_flowcontrol_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var has []string
			for _, l := range m.GetLabel() {
				has = append(has, l.GetValue())
			}
			if h := m.GetHistogram(); slices.Equal(has, values) {
				return observed{h.GetSampleSum(), h.GetSampleCount(), h.GetBucket()[0].GetCumulativeCount(), len(h.GetBucket())}
			}
		}
	}
	t.Fatalf("no %s %s", name, values)
	return observed{}
}
