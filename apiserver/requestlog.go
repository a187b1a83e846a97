// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/admission"
	apf "knarr.dev/apiserver/flowcontrol"
	"knarr.dev/apiserver/measure"
)

// requestLevel is that of the line of each request: verbosity 3, as in Kubernetes.
const requestLevel = slog.Level(-3)

// Requests that take longer than slow are logged with where their time went, at most slowLines of them in slowWindow.
const (
	slow       = 500 * time.Millisecond
	slowLines  = 10
	slowWindow = 10 * time.Second
)

// lapse is time that passed, in nanoseconds. It may be added to at once.
type lapse struct{ n atomic.Int64 }

func (l *lapse) add(d time.Duration) { l.n.Add(int64(d)) }
func (l *lapse) took() time.Duration { return time.Duration(l.n.Load()) }

// spent is where the time of a request went. Webhooks are part of admission; what is not listed is the rest.
type spent struct {
	authentication, queue, authorization, body, storage lapse
	admission                                           admission.Spent
}

// outside is what others took: webhooks, and those whose turn was first.
func (s *spent) outside() time.Duration {
	return s.queue.took() + time.Duration(s.admission.Webhooks.Load())
}

// steps are the parts that took any time worth telling, as attributes of a log line.
func (s *spent) steps() []any {
	var out []any
	for _, step := range []struct {
		name string
		took time.Duration
	}{
		{"authentication", s.authentication.took()}, {"queue", s.queue.took()}, {"authorization", s.authorization.took()},
		{"body", s.body.took()}, {"admission", time.Duration(s.admission.All.Load())},
		{"webhooks", time.Duration(s.admission.Webhooks.Load())}, {"storage", s.storage.took()},
	} {
		if step.took >= time.Millisecond {
			out = append(out, slog.String(step.name, step.took.Round(time.Microsecond).String()))
		}
	}
	return out
}

// logged is what the line of a request tells beside the request and its answer.
type logged struct {
	schema *apf.Schema
	work   apf.Work
	began  time.Time // when it had its turn
	ended  time.Time // when it gave back its seats
}

// withRequestLog logs requests at verbosity 3 in the words of Kubernetes: those that last when they end.
func (s *Server) withRequestLog(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.cfg.Log.Enabled(r.Context(), requestLevel) {
			next.ServeHTTP(w, r)
			return
		}
		sc := scopeOf(r)
		sc.logged = &logged{}
		answer := &measured{ResponseWriter: w}
		agent := r.UserAgent()
		status := http.StatusInternalServerError // of a request that panics
		defer func() { s.logRequest(r, sc, agent, status) }()
		next.ServeHTTP(answer, r)
		status = answer.status()
	})
}

func (s *Server) logRequest(r *http.Request, sc *scope, agent string, status int) {
	attributes := []slog.Attr{
		slog.String("verb", s.loggedVerb(r, sc.info)), slog.String("URI", r.URL.RequestURI()),
		slog.String("latency", time.Since(sc.received).String()), slog.String("userAgent", agent),
		slog.String("audit-ID", sc.id), slog.String("srcIP", r.RemoteAddr),
	}
	if l := sc.logged; l.schema != nil {
		ended := l.ended
		if ended.IsZero() {
			ended = time.Now()
		}
		attributes = append(attributes,
			slog.String("apf_pl", l.schema.Level()), slog.String("apf_fs", l.schema.Name()),
			slog.Int("apf_iseats", l.work.Seats), slog.Int("apf_fseats", l.work.Final), slog.String("apf_additionalLatency", l.work.Extra.String()))
		if !l.began.IsZero() {
			attributes = append(attributes, slog.String("apf_execution_time", ended.Sub(l.began).String()))
		}
	}
	attributes = append(attributes, slog.Int("resp", status))
	s.cfg.Log.LogAttrs(r.Context(), requestLevel, "HTTP", attributes...)
}

// loggedVerb is the verb as metrics have it, or the method for paths that are no resources.
func (s *Server) loggedVerb(r *http.Request, i *requestInfo) string {
	if !i.isResource {
		return r.Method
	}
	if reg := s.resource(gvrOf(i)); reg != nil {
		key := keyOf(r, i, reg.kind)
		return key.Verb
	}
	return measuredVerb(i.verb)
}

// rate lets a number of lines through in a window of time, and counts the others.
type rate struct {
	mu      sync.Mutex
	since   time.Time
	let     int
	skipped int
}

// allow says whether a line may be written now, and how many were not since the last one.
func (l *rate) allow(now time.Time) (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= slowWindow {
		l.since, l.let = now, 0
	}
	if l.let == slowLines {
		l.skipped++
		return 0, false
	}
	l.let++
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}

// logSlow tells of a request that took long where its time went. Those that last as long as their users like are not slow.
func (s *Server) logSlow(key *measure.Key, status int, took time.Duration, spent *spent, more func() []any) {
	if took < slow || key.Verb == "WATCH" || key.Verb == "CONNECT" || key.Subresource == "log" {
		return
	}
	skipped, ok := s.slow.allow(time.Now())
	if !ok {
		return
	}
	line := append([]any{"verb", key.Verb, "resource", key.Resource}, more()...)
	line = append(line, "resp", status, slog.String("latency", took.Round(time.Microsecond).String()))
	line = append(line, spent.steps()...)
	if skipped > 0 {
		line = append(line, "unlogged", skipped)
	}
	s.cfg.Log.Warn("slow request", line...)
}

// slowHTTP is what tells a slow request over HTTP from others; slowCall one of the process.
func slowHTTP(r *http.Request, sc *scope) func() []any {
	return func() []any {
		return []any{"URI", r.URL.RequestURI(), "userAgent", r.UserAgent(), "audit-ID", sc.id, "srcIP", r.RemoteAddr}
	}
}

func slowCall(user *call.Identity, q *call.Request) func() []any {
	return func() []any {
		return []any{"namespace", q.Namespace, "name", q.Name, "subresource", q.Subresource, "user", user.Name}
	}
}
