// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/authn"
	apf "knarr.dev/apiserver/flowcontrol"
)

// Bounds of requests if the configuration says nothing.
const (
	defaultInFlight         = 400
	defaultMutatingInFlight = 200
	defaultRequestTimeout   = time.Minute
	defaultWatchTimeout     = 30 * time.Minute
	defaultStreams          = 1000
)

// patience is which part of its time a request may wait for its turn.
const patience = 4

// withFlowControl lets requests wait for their turn, or refuses them. Those that last as long as their user likes have no turn; a watch
// has one until it has begun.
//
// See https://kubernetes.io/docs/concepts/cluster-administration/flow-control/.
func (s *Server) withFlowControl(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := scopeOf(r)
		if isLong(sc.info) {
			next.ServeHTTP(w, r)
			return
		}
		r, span := s.step(r, "priorityandfairness")
		defer span.End()
		if s.flows == nil {
			done, ok := s.inFlight.try(sc.user, sc.info.verb)
			if !ok {
				s.refuse(w, r)
				return
			}
			defer done()
			next.ServeHTTP(w, r)
			return
		}
		i := sc.info
		q := apf.Request{
			User: sc.user, Verb: i.verb, Group: i.group, Version: i.version, Resource: i.resource, Subresource: i.subresource,
			Namespace: i.namespace, Name: i.name, Path: i.path, Queue: s.metrics.queue(i.verb),
		}
		match := s.flows.Match(&q)
		if match.UID != nil {
			h := w.Header()
			h["X-Kubernetes-Pf-Flowschema-Uid"], h["X-Kubernetes-Pf-Prioritylevel-Uid"] = match.UID, match.LevelUID
		}
		work := s.work(&q, i.listing(), match.MaxSeats())
		if sc.logged != nil {
			sc.logged.schema, sc.logged.work = match, work
		}
		ticket, err := s.flows.Admit(r.Context(), match, &q, work, sc.timeout/patience)
		if err != nil {
			s.refuse(w, r)
			return
		}
		sc.ticket = ticket
		sc.spent.queue.add(ticket.Waited())
		if sc.logged != nil {
			sc.logged.began = time.Now()
		}
		defer sc.begun()
		next.ServeHTTP(w, r)
	})
}

// begun gives back the seats of a request: a watch has begun, or another request ended.
func (sc *scope) begun() {
	if sc.ticket != nil {
		sc.ticket.Done()
		sc.ticket = nil
		if sc.logged != nil {
			sc.logged.ended = time.Now()
		}
	}
}

// refuse tells a client to try again later.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request) {
	s.terminated(r, http.StatusTooManyRequests)
	w.Header().Set("Retry-After", strconv.Itoa(s.retry.After(time.Now())))
	http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
}

// timeoutOf is how long a request may take: what it asks for, if that is less than what the server allows.
func (s *Server) timeoutOf(r *http.Request, i *requestInfo) (time.Duration, error) {
	all := s.cfg.RequestTimeout
	if !strings.Contains(r.URL.RawQuery, "timeout=") {
		return all, nil
	}
	text := i.queryOf(r).Get("timeout")
	if text == "" {
		return all, nil
	}
	asked, err := time.ParseDuration(text)
	if err != nil {
		return all, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
	}
	if asked <= 0 || asked > all {
		return all, nil
	}
	return asked, nil
}

// withDeadline refuses requests whose time cannot be told or is over.
func (s *Server) withDeadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch sc := scopeOf(r); {
		case sc.badTimeout != nil:
			writeError(w, r, sc.badTimeout)
		case r.Context().Err() == context.DeadlineExceeded:
			writeLate(w)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// writeLate answers a request whose time is over, in the form that Kubernetes has for it.
func writeLate(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = io.WriteString(w, `{"metadata":{},"status":"Failure","message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout","details":{},"code":504}`+"\n")
}

// isLong says that a request lasts as long as its user likes, but for watches.
func isLong(i *requestInfo) bool {
	switch i.subresource {
	case "exec", "attach", "portforward", "log", "proxy":
		return true
	}
	return !i.isResource && strings.HasPrefix(i.path, "/debug/pprof/")
}

// again is how long a request of the same process that was refused waits until it tries again, as clients over HTTP do.
const again = time.Second

// admit lets a request of the same process wait for its turn, as long as ctx lasts; done must be called if there is no error.
func (s *Server) admit(ctx context.Context, user *call.Identity, q *call.Request) (done func(), err error) {
	if s.flows == nil {
		return s.inFlight.wait(ctx, q.Verb)
	}
	r := apf.Request{
		User: user, Verb: q.Verb, Group: q.Kind.Group, Version: q.Kind.Version, Resource: q.Kind.Resource, Subresource: q.Subresource,
		Namespace: q.Namespace, Name: q.Name, Queue: s.metrics.queue(q.Verb),
	}
	l := listing{limit: q.Limit, version: q.ResourceVersion, exact: exactly(q.ResourceVersionMatch, q.Continue)}
	l.initial = q.SendInitialEvents != nil && *q.SendInitialEvents
	for {
		match := s.flows.Match(&r)
		ticket, err := s.flows.Admit(ctx, match, &r, s.work(&r, l, match.MaxSeats()), s.cfg.RequestTimeout/patience)
		if err == nil {
			return ticket.Done, nil
		}
		pause := time.NewTimer(again)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
		}
	}
}

// listing is what the cost of a list or watch depends on.
type listing struct {
	limit   int64
	version string
	// exact lists a state that may not be in the cache; initial is that of a watch that begins with all there is.
	exact, initial bool
}

func exactly(match metav1.ResourceVersionMatch, token string) bool {
	return match == metav1.ResourceVersionMatchExact || token != ""
}

// listing reads the query of lists and watches. A limit that cannot be read counts as the greatest.
func (i *requestInfo) listing() (l listing) {
	query := i.query
	if query == nil {
		return l
	}
	l.version, l.exact = query.Get("resourceVersion"), exactly(metav1.ResourceVersionMatch(query.Get("resourceVersionMatch")), query.Get("continue"))
	l.initial = flagged(query, "sendInitialEvents")
	if text := query.Get("limit"); text != "" {
		var err error
		if l.limit, err = strconv.ParseInt(text, 10, 64); err != nil {
			l.limit = unreadable
		}
	}
	return l
}

const unreadable = -1

// work estimates what a request costs; most is how many seats it may take.
func (s *Server) work(q *apf.Request, l listing, most int) apf.Work {
	switch q.Verb {
	case "list", "watch":
		if q.Name != "" || q.Verb == "watch" && !l.initial && l.version != "" && l.version != "0" {
			return apf.One()
		}
		if l.limit == unreadable {
			return apf.List(math.MaxInt32, math.MaxInt32, true, most)
		}
		reg := s.resource(schema.GroupVersionResource{Group: q.Group, Version: q.Version, Resource: q.Resource})
		if reg == nil || reg.cache == nil {
			return apf.One()
		}
		objects, each := reg.cache.Size()
		if l.limit > 0 && l.limit < int64(objects) {
			objects = int(l.limit)
		}
		return apf.List(objects, each, l.exact, most)
	case "create", "update", "patch", "delete":
		if q.Resource != "" && q.Subresource != "token" {
			return apf.Write(s.watchers.count(q.Group, q.Resource, q.Namespace, q.Name), most)
		}
	}
	return apf.One()
}

// watchers counts the open watches, by what they watch.
type watchers struct {
	mu   sync.RWMutex
	open map[watched]int
}

// watched is a collection, of a namespace if that is not empty, or one object of it.
type watched struct{ group, resource, namespace, name string }

func (w *watchers) add(of watched, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[watched]int{}
	}
	if w.open[of] += n; w.open[of] == 0 {
		delete(w.open, of)
	}
}

// count is how many watches are told when an object is written.
func (w *watchers) count(group, resource, namespace, name string) int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if len(w.open) == 0 {
		return 0
	}
	n := w.open[watched{group: group, resource: resource}]
	if namespace != "" {
		n += w.open[watched{group: group, resource: resource, namespace: namespace}]
	}
	if name != "" {
		n += w.open[watched{group: group, resource: resource, name: name}]
		if namespace != "" {
			n += w.open[watched{group, resource, namespace, name}]
		}
	}
	return n
}

// inFlight bounds the requests that are carried out at once, those that write apart from those that read, without priority
// and fairness. A bound of zero is none.
type inFlight struct {
	reading, writing chan struct{}
}

func newInFlight(all, mutating int) *inFlight {
	f := &inFlight{}
	if all > 0 {
		f.reading = make(chan struct{}, all)
	}
	if mutating > 0 {
		f.writing = make(chan struct{}, mutating)
	}
	return f
}

func (f *inFlight) seats(verb string) chan struct{} {
	switch verb {
	case "get", "list", "watch", "head", "options":
		return f.reading
	}
	return f.writing
}

// try takes a seat if one is free. Watches and superusers need none.
func (f *inFlight) try(user *call.Identity, verb string) (done func(), ok bool) {
	seats := f.seats(verb)
	if seats == nil || verb == "watch" || slices.Contains(user.Groups, authn.GroupMasters) {
		return func() {}, true
	}
	select {
	case seats <- struct{}{}:
		return func() { <-seats }, true
	default:
		return nil, false
	}
}

// wait takes a seat as soon as one is free.
func (f *inFlight) wait(ctx context.Context, verb string) (done func(), err error) {
	seats := f.seats(verb)
	if seats == nil {
		return func() {}, nil
	}
	select {
	case seats <- struct{}{}:
		return func() { <-seats }, nil
	case <-ctx.Done():
		return nil, apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
}

// serveFlows answers a path below /debug/api_priority_and_fairness/; false if there is no such table.
func (s *Server) serveFlows(w http.ResponseWriter, r *http.Request, name string) bool {
	if s.flows == nil || name != "dump_priority_levels" && name != "dump_queues" && name != "dump_requests" {
		return false
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return s.flows.Dump(w, name, r.URL.Query().Has("includeRequestDetails"))
}
