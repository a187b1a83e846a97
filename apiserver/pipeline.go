// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/authn"
	apf "knarr.dev/apiserver/flowcontrol"
)

// pipeline is what every HTTP request passes, in this order. What follows in serveResource is the same as for requests
// of the same process: decoding, field validation, admission, validation, storage (handler.go, registry.go).
func (s *Server) pipeline() http.Handler {
	h := http.Handler(http.HandlerFunc(s.dispatch))
	for _, step := range []func(http.Handler) http.Handler{
		s.withAuthorization,
		s.withFlowControl,
		s.withImpersonation,
		s.withAudit,
		s.withTracing,
		s.withAuthentication,
		s.withDeadline,
		s.withShutdown,
		s.withAuditID,
		s.withRequestLog,
		s.withRequestInfo,
		s.withPanicRecovery,
	} {
		h = step(h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growStack(false)
		if c := s.cfg.GoawayChance; c > 0 && r.ProtoMajor == 2 && rand.Float64() < c {
			w.Header().Set("Connection", "close") // which makes HTTP/2 send GOAWAY
		}
		h.ServeHTTP(w, r)
	})
}

// stackRoom is what most writes need of their goroutine's stack. With what else is on it, the stack has 16 KiB: larger ones come
// from the heap each time.
const stackRoom = 12 << 10

// growStack gives a fresh goroutine a stack that is large enough for most requests at once. Else it grows by and by, while
// it is deep, which takes 5 % of a write's CPU. The room is never used: clearing it would cost as much again.
//
//go:noinline
func growStack(used bool) {
	if used {
		var room [stackRoom]byte
		runtime.KeepAlive(&room)
	}
}

// scope is what the steps find out about a request.
type scope struct {
	info *requestInfo
	// id is the audit ID, received when the request came in.
	id       string
	received time.Time
	user     *call.Identity
	// record is the request's audit record; nil, which is valid, if nothing is recorded.
	record *audit.Record
	// answer is what is counted of the answer.
	answer measured
	// spent is where the request's time went.
	spent spent
	// logged is nil unless the request is logged.
	logged *logged
	// timeout is how long the request may take, if it does not stream; badTimeout is what is wrong with what it asked for.
	timeout    time.Duration
	badTimeout error
	// body is that of the request, if it may be used again for another one.
	body []byte
	// ticket is for the seats of the request while it has some.
	ticket *apf.Ticket
}

type scopeKey struct{}

func scopeOf(r *http.Request) *scope { return r.Context().Value(scopeKey{}).(*scope) }

// recordOf returns the audit record of a request, or nil.
func recordOf(r *http.Request) *audit.Record {
	if s, ok := r.Context().Value(scopeKey{}).(*scope); ok {
		return s.record
	}
	return nil
}

// UserOf returns who sent a request that passed the pipeline; nil for others.
func UserOf(r *http.Request) *call.Identity {
	if s, ok := r.Context().Value(scopeKey{}).(*scope); ok {
		return s.user
	}
	return nil
}

func (s *Server) withPanicRecovery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.cfg.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			writeError(w, r, apierrors.NewInternalError(fmt.Errorf("apiserver panic'd on %s %s", r.Method, r.URL.Path)))
		}()
		next.ServeHTTP(w, r)
	})
}

func (s *Server) withRequestInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := &scope{info: parseRequest(r), received: time.Now()}
		if sc.info.aimless {
			http.Error(w, fmt.Sprintf("Internal Server Error: %q: failed to create RequestInfo: unable to determine kind and namespace from url, %s",
				r.RequestURI, r.URL.Path), http.StatusInternalServerError)
			return
		}
		ctx := r.Context()
		if sc.timeout = s.cfg.RequestTimeout; sc.info.verb != "watch" && !isLong(sc.info) {
			sc.timeout, sc.badTimeout = s.timeoutOf(r, sc.info)
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, sc.timeout)
			defer cancel()
		}
		ctx = authn.WithWarnings(ctx, func(text string) { addWarnings(w, []string{text}) })
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, scopeKey{}, sc)))
	})
}

func (s *Server) withAuditID(next http.Handler) http.Handler {
	caching := []string{"no-cache, private"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("Audit-ID")
		if id == "" || len(id) > 64 {
			id = string(uuid.NewUUID())
		}
		scopeOf(r).id = id
		h := w.Header()
		h["Audit-Id"], h["Cache-Control"] = []string{id}, caching
		next.ServeHTTP(w, r)
	})
}

func (s *Server) withAuthentication(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := s.authenticate(r)
		s.countAuthentication(scopeOf(r), user, r)
		if err != nil {
			s.cfg.Log.Debug("refused credentials", "path", r.URL.Path, "err", err)
			s.auditUnauthenticated(r)
			writeError(w, r, apierrors.NewUnauthorized("Unauthorized"))
			return
		}
		r.Header.Del("Authorization")
		scopeOf(r).user = user
		next.ServeHTTP(w, r)
	})
}

// authenticate asks one authenticator after the other. A bad credential of one kind does not spoil a good one of another; with bad
// ones alone nobody is anonymous.
func (s *Server) authenticate(r *http.Request) (*call.Identity, error) {
	var problems []error
	for _, a := range s.cfg.Authenticators {
		user, err := a.Authenticate(r)
		if err != nil {
			problems = append(problems, err)
		}
		if user == nil {
			continue
		}
		if user.Name != authn.Anonymous {
			return withGroup(user, authn.GroupAuthenticated), nil
		}
		return user, nil
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if s.cfg.Anonymous != nil && !s.cfg.Anonymous(r.URL.Path) {
		return nil, errors.New("anonymous requests are not allowed here")
	}
	return &call.Identity{Name: authn.Anonymous, Groups: []string{authn.GroupUnauthenticated}}, nil
}

func withGroup(user *call.Identity, group string) *call.Identity {
	for _, g := range user.Groups {
		if g == group {
			return user
		}
	}
	u := *user
	u.Groups = append(u.Groups[:len(u.Groups):len(u.Groups)], group)
	return &u
}

func (s *Server) withAuthorization(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := scopeOf(r)
		a := sc.info.attributes()
		a.User = sc.user
		began := time.Now()
		r, span := s.step(r, "authorization")
		defer span.End()
		reason, err := s.decide(r.Context(), a)
		took := time.Since(began)
		s.countAuthorization(err, took)
		sc.spent.authorization.add(took)
		sc.record.Decided(err == nil, reason)
		if err != nil {
			writeForbidden(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeForbidden answers who may not do what was asked: unlike other errors, with word to browsers not to guess.
func writeForbidden(w http.ResponseWriter, r *http.Request, err error) {
	if apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	writeError(w, r, err)
}

// dispatch hands a request to the resource it names, or to the handler of another path.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	info := scopeOf(r).info
	if s.others != nil && s.others.serves(w, r) {
		return
	}
	if s.servesVersion(info) {
		if reg := s.resource(gvrOf(info)); reg != nil {
			s.serveResource(w, r, reg)
			return
		}
		if reg := s.resource(podsOf(info)); reg != nil { // POST to bindings is the old form of pods/NAME/binding
			switch {
			case info.namespace == "" || info.name != "":
				writeError(w, r, notFoundPath())
				return
			case info.verb != "create":
				writeError(w, r, notAllowed())
				return
			}
			info.subresource = "binding"
			s.serveResource(w, r, reg)
			return
		}
	}
	if s.servesVersion(info) {
		writeError(w, r, notFoundPath())
		return
	}
	if h := s.pathHandler(r.URL.Path); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	s.serveOther(w, r)
}

// podsOf names pods if the request is for bindings, else nothing.
func podsOf(i *requestInfo) schema.GroupVersionResource {
	if i.group == "" && i.version == "v1" && i.resource == "bindings" && i.subresource == "" {
		return schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	}
	return schema.GroupVersionResource{}
}

func (s *Server) pathHandler(path string) http.Handler {
	if h := s.cfg.Paths[path]; h != nil {
		return h
	}
	for p := path; ; {
		i := strings.LastIndexByte(strings.TrimSuffix(p, "/"), '/')
		if i < 0 {
			return nil
		}
		p = p[:i+1]
		if h := s.cfg.Paths[p]; h != nil && p != "/" {
			return h
		}
	}
}
