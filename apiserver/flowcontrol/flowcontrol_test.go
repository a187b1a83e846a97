// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/flowcontrol"
)

// suggested is a controller with the objects that a cluster starts with.
func suggested(more ...*flowcontrolv1.FlowSchema) *Controller {
	schemas, levels := flowcontrol.Suggested()
	c := New(600)
	c.Configure(append(schemas, more...), levels)
	return c
}

func user(name string, groups ...string) *call.Identity {
	return &call.Identity{Name: name, Groups: append(groups, "system:authenticated")}
}

func TestMatch(t *testing.T) {
	c := suggested(&flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "dangling"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "none"}, MatchingPrecedence: 2,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: []flowcontrolv1.Subject{{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "*"}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}}},
	}}, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "narrow"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "system"}, MatchingPrecedence: 3,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects: []flowcontrolv1.Subject{
				{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "amy"}},
				{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "n", Name: "robot"}},
			},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{
				{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/status"}, Namespaces: []string{"n"}},
				{Verbs: []string{"list"}, APIGroups: []string{"apps"}, Resources: []string{"*"}, ClusterScope: true},
			},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/a/*", "/b"}}},
		}},
	}})
	amy := user("amy")
	for _, row := range []struct {
		want string
		r    Request
	}{
		{"exempt", Request{User: user("root", "system:masters"), Verb: "get", Resource: "pods"}},
		{"probes", Request{User: user("x"), Verb: "get", Path: "/healthz"}},
		{"global-default", Request{User: user("x"), Verb: "get", Path: "/healthz/etcd"}},
		{"system-leader-election", Request{User: user("system:serviceaccount:kube-system:x", "system:serviceaccounts"), Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "n"}},
		{"kube-system-service-accounts", Request{User: user("system:serviceaccount:kube-system:x", "system:serviceaccounts"), Verb: "list", Resource: "pods"}},
		{"service-accounts", Request{User: user("system:serviceaccount:kube-systematic:x", "system:serviceaccounts"), Verb: "list", Resource: "pods"}},
		{"system-node-high", Request{User: user("system:node:a", "system:nodes"), Verb: "patch", Resource: "nodes", Subresource: "status", Name: "a"}},
		{"system-nodes", Request{User: user("system:node:a", "system:nodes"), Verb: "get", Resource: "nodes", Subresource: "proxy", Name: "a"}},
		{"narrow", Request{User: amy, Verb: "get", Resource: "pods", Namespace: "n"}},
		{"narrow", Request{User: user("system:serviceaccount:n:robot"), Verb: "get", Resource: "pods", Subresource: "status", Namespace: "n"}},
		{"global-default", Request{User: amy, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "n"}},
		{"global-default", Request{User: amy, Verb: "get", Resource: "pods"}},
		{"narrow", Request{User: amy, Verb: "list", Group: "apps", Resource: "deployments"}},
		{"global-default", Request{User: amy, Verb: "list", Group: "apps", Resource: "deployments", Namespace: "n"}},
		{"narrow", Request{User: amy, Verb: "get", Path: "/a/b/c"}},
		{"narrow", Request{User: amy, Verb: "get", Path: "/b"}},
		{"global-default", Request{User: amy, Verb: "get", Path: "/a"}},
		{"catch-all", Request{User: &call.Identity{Name: "nobody"}, Verb: "get", Resource: "pods"}},
	} {
		if got := c.Match(&row.r).name; got != row.want {
			t.Errorf("%+v of %s: %s, want %s", row.r, row.r.User.Name, got, row.want)
		}
	}
}

// TestLimits has the limits of the suggested levels as observed in Kubernetes v1.36 with 600 seats.
func TestLimits(t *testing.T) {
	c := suggested()
	for name, want := range map[string][5]int{ // nominal, lower, upper, current, widest
		"catch-all": {13, 13, 613, 30, 2}, "exempt": {0, 0, 600, 0, 100}, "global-default": {49, 24, 649, 56, 8}, "leader-election": {25, 25, 625, 58, 4},
		"node-high": {98, 73, 698, 170, 15}, "system": {74, 50, 674, 117, 12}, "workload-high": {98, 49, 698, 114, 15}, "workload-low": {245, 24, 845, 56, 37},
	} {
		l := c.levels[name]
		if got := [5]int{l.nominal, l.least, l.most, l.limit, int(l.widest.Load())}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, row := range []struct {
		total  float64
		wishes []wish
		want   []float64
	}{
		{10, []wish{{1, 100, 1}, {1, 100, 1}}, []float64{5, 5}},
		{10, []wish{{1, 3, 1}, {1, 100, 1}}, []float64{3, 7}},
		{10, []wish{{8, 100, 8}, {4, 100, 4}}, []float64{8, 4}},
		{12, []wish{{2, 100, 6}, {3, 100, 3}, {0, 100, 0}}, []float64{8, 4, 0}},
		{100, []wish{{1, 10, 5}, {0, 0, 2}}, []float64{10, 0}},
		{604, []wish{{13, 613, 13}, {24, 649, 24}, {25, 625, 25}, {5, 605, 45.32}, {73, 698, 73}, {49, 673, 49}, {49, 698, 49}, {24, 843, 24}},
			[]float64{26, 48, 50, 91, 146, 98, 98, 48}}, // as observed
	} {
		_, got := share(row.total, row.wishes)
		for i := range got {
			if math.Abs(got[i]-row.want[i]) > 0.5 {
				t.Errorf("%v of %v: %v, want %v", row.wishes, row.total, got, row.want)
				break
			}
		}
	}
}

func TestDeal(t *testing.T) {
	for n := 1; n < 40; n++ {
		for size := 1; size <= min(n, 8); size++ {
			var hand [maxHand]int32
			seen := map[int32]bool{}
			for _, card := range hand[:deal(mix(uint64(n*size)), n, size, &hand)] {
				if card < 0 || int(card) >= n || seen[card] {
					t.Fatalf("%d of %d: %v", size, n, hand[:size])
				}
				seen[card] = true
			}
			if len(seen) != size {
				t.Fatalf("%d of %d: %v", size, n, hand[:size])
			}
		}
	}
	// The example of KEP-1040: all cards are as likely.
	var counts [8]int
	for i := range 8000 {
		var hand [maxHand]int32
		deal(mix(extend(fnvOffset, fmt.Sprint("flow-", i))), 8, 2, &hand)
		counts[hand[0]]++
		counts[hand[1]]++
	}
	for i, n := range counts {
		if n < 1800 || n > 2200 {
			t.Errorf("queue %d was dealt %d times of 16000, want about 2000", i, n)
		}
	}
}

// TestEstimates has figures that were observed in Kubernetes v1.36.
func TestEstimates(t *testing.T) {
	for _, row := range []struct {
		objects   int
		each      int64
		exact     bool
		most, got int
	}{
		{0, 0, false, 86, 1}, {252, 20038, false, 86, 10}, {252, 20038, true, 86, 51}, {25, 20038, false, 86, 6}, {10, 20038, false, 86, 3},
		{4, 20038, false, 86, 1}, {252, 20038, false, 3, 3}, {math.MaxInt32, math.MaxInt32, true, 86, 86},
	} {
		if w := List(row.objects, row.each, row.exact, row.most); w.Seats != row.got {
			t.Errorf("list of %d × %d bytes: %d seats, want %d", row.objects, row.each, w.Seats, row.got)
		}
	}
	for watchers, want := range map[int]Work{
		9: {Seats: 1}, 10: {Seats: 1, Final: 1, Extra: 5 * time.Millisecond}, 11: {Seats: 1, Final: 2, Extra: 5 * time.Millisecond},
		95: {Seats: 1, Final: 10, Extra: 5 * time.Millisecond}, 125: {Seats: 1, Final: 10, Extra: 6500 * time.Microsecond},
		250: {Seats: 1, Final: 10, Extra: 12500 * time.Microsecond},
	} {
		want.told = watchers + 1
		if w := Write(watchers, 73); w != want {
			t.Errorf("write that %d see: %+v, want %+v", watchers, w, want)
		}
	}
	for _, row := range [][3]int{{5, 2, 1}, {10, 1, 2}, {19, 1, 3}, {29, 4, 5}, {46, 4, 7}, {46, 8, 5}, {46, 9, 5}, {46, 7, 6}, {49, 6, 8}, {572, 1, 86}} {
		if got := widest(row[0], row[1]); got != row[2] {
			t.Errorf("widest request of %d seats, hand of %d: %d, want %d", row[0], row[1], got, row[2])
		}
	}
}

// one is a controller whose only level of note has so many seats and queues; borrowing is off.
func one(seats int, response flowcontrolv1.LimitResponse) (*Controller, *Schema, *Request) {
	none, shares := int32(0), int32(seats)
	c := New(seats)
	// The catch-all has 5 shares of 5 + seats, which leaves seats if the server has as many more.
	c.seats = seats + 5
	c.Configure([]*flowcontrolv1.FlowSchema{{
		ObjectMeta: metav1.ObjectMeta{Name: "s", UID: "1"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "l"}, MatchingPrecedence: 5,
			DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: "ByUser"},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: []flowcontrolv1.Subject{{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "*"}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true}}}},
		},
	}}, []*flowcontrolv1.PriorityLevelConfiguration{{
		ObjectMeta: metav1.ObjectMeta{Name: "l", UID: "2"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: "Limited", Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: &shares, LendablePercent: &none, BorrowingLimitPercent: &none, LimitResponse: response,
		}},
	}})
	r := &Request{User: user("amy"), Verb: "get", Resource: "pods"}
	return c, c.Match(r), r
}

func queued(queues, hand, longest int32) flowcontrolv1.LimitResponse {
	return flowcontrolv1.LimitResponse{Type: "Queue", Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: longest}}
}

func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, r := one(1, queued(4, 1, 1))
		ctx := t.Context()
		first, err := c.Admit(ctx, s, r, One(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := c.Admit(ctx, s, r, One(), 15*time.Second); !errors.Is(err, ErrRefused) || time.Since(began) != 15*time.Second {
			t.Errorf("a request that waits too long: %v after %s", err, time.Since(began))
		}
		gone, cancel := context.WithCancel(ctx)
		result := make(chan error, 1)
		go func() {
			_, err := c.Admit(gone, s, r, One(), time.Minute)
			result <- err
		}()
		synctest.Wait()
		if _, err := c.Admit(ctx, s, r, One(), time.Minute); !errors.Is(err, ErrRefused) {
			t.Errorf("a request that finds its queue full: %v", err)
		}
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("a request whose client went away: %v", err)
		}
		go func() {
			ticket, err := c.Admit(ctx, s, r, One(), time.Minute)
			if err == nil {
				ticket.Done()
			}
			result <- err
		}()
		synctest.Wait()
		first.Done()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

// TestConcurrent runs many requests that come and go at once: seats are kept, and none is lost. It is for the race detector.
func TestConcurrent(t *testing.T) {
	const seats = 4
	c, s, _ := one(seats, queued(16, 2, 20))
	var running, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			r := &Request{User: user(fmt.Sprint("user-", i%5)), Verb: "get", Resource: "pods"}
			for j := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if (i+j)%7 == 0 {
					go cancel()
				}
				ticket, err := c.Admit(ctx, s, r, One(), time.Second)
				if err == nil {
					n := running.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					running.Add(-1)
					ticket.Done()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	l := c.levels["l"]
	if l.busy != 0 || l.waiting != 0 || l.executing != 0 || l.active != 0 || most.Load() > seats {
		t.Errorf("%d seats taken, %d wait, %d run, %d queues active; %d ran at once", l.busy, l.waiting, l.executing, l.active, most.Load())
	}
}

// TestBorrowing follows a level whose demand grows: it gets the seats of others, and gives them back.
func TestBorrowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := suggested()
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		go c.Run(ctx)
		r := &Request{User: user("amy"), Verb: "get", Resource: "pods"}
		s, l := c.Match(r), c.levels["global-default"]
		results := make(chan *Ticket, 200)
		for range 200 {
			go func() {
				ticket, err := c.Admit(ctx, s, r, One(), time.Minute)
				if err != nil {
					t.Error(err)
				}
				results <- ticket
			}()
		}
		synctest.Wait()
		if len(results) != 56 {
			t.Fatalf("%d run, want the 56 seats of an idle server", len(results))
		}
		time.Sleep(adjustInterval)
		synctest.Wait()
		if len(results) != 200 || l.limit < 200 {
			t.Errorf("%d run after the adjustment, of %d seats", len(results), l.limit)
		}
		for range 200 {
			(<-results).Done()
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if l.limit != 56 {
			t.Errorf("%d seats long after the rush, want 56", l.limit)
		}
	})
}

// TestReconfigure changes levels under requests: they end where they began.
func TestReconfigure(t *testing.T) {
	c, s, r := one(2, queued(4, 1, 10))
	ticket, err := c.Admit(t.Context(), s, r, One(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Configure(nil, nil)
	if got := c.Match(r).name; got != "catch-all" {
		t.Errorf("matched %s after the schema was deleted", got)
	}
	if l := c.levels["l"]; l == nil || !l.quiescing {
		t.Error("a level with requests was dropped")
	}
	ticket.Done()
	c.adjust()
	if c.levels["l"] != nil {
		t.Error("a deleted level stays")
	}
}

func TestDump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s, r := one(1, queued(2, 1, 10))
		first, err := c.Admit(t.Context(), s, r, Write(40, 5), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			second, err := c.Admit(t.Context(), s, r, One(), time.Minute)
			if err == nil {
				second.Done()
			}
		}()
		synctest.Wait()
		for name, want := range map[string]string{
			"dump_priority_levels": "l,                 1,            false,  false,       1,               1,                 1,                  0,                0,                0\n",
			"dump_requests":        "l,                 s,              0,          0,                   amy,             2000-01-01T00:00:00Z, 1,            0,          0s,                0001-01-01T00:00:00Z\n",
		} {
			var out strings.Builder
			if !c.Dump(&out, name, false) || !strings.Contains(out.String(), want) {
				t.Errorf("%s:\n%s", name, out.String())
			}
		}
		var out strings.Builder
		c.Dump(&out, "dump_queues", false)
		if lines := strings.Count(out.String(), "\n"); lines != 3 {
			t.Errorf("%d lines of queues, want a head and 2:\n%s", lines, out.String())
		}
		first.Done()
	})
}

func TestRetry(t *testing.T) {
	var r Retry
	second := int64(100)
	// refuse refuses so many requests in one second, and the next time goes on to the next.
	refuse := func(n, want int) {
		t.Helper()
		for range n {
			if got := r.After(time.Unix(second, 0)); got != want {
				t.Errorf("refused at %d: try after %d seconds, want %d", second, got, want)
			}
		}
		second++
	}
	for range 5 {
		refuse(2, 1) // few
	}
	for _, want := range []int{1, 2, 2, 4, 4, 4, 4, 8, 8} {
		refuse(5, want)
	}
	second += 10
	refuse(1, 3)
	second += 100
	refuse(1, 1)
}

func BenchmarkMatch(b *testing.B) {
	c := suggested()
	for name, u := range map[string]*call.Identity{
		"masters": user("admin", "system:masters"), "account": user("system:serviceaccount:default:x", "system:serviceaccounts", "system:serviceaccounts:default"),
		"user": user("amy", "dev", "ops"),
	} {
		r := &Request{User: u, Verb: "get", Resource: "pods", Namespace: "default", Name: "a"}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Match(r)
			}
		})
	}
}

func BenchmarkAdmit(b *testing.B) {
	c := suggested()
	for name, u := range map[string]*call.Identity{"exempt": user("admin", "system:masters"), "queued": user("amy", "dev", "ops")} {
		r := &Request{User: u, Verb: "get", Resource: "pods", Namespace: "default", Name: "a"}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ticket, err := c.Admit(b.Context(), c.Match(r), r, One(), time.Second)
				if err != nil {
					b.Fatal(err)
				}
				ticket.Done()
			}
		})
	}
}
