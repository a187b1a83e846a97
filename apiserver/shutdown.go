// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"knarr.dev/apiserver/http2"
	"knarr.dev/apiserver/measure"
)

// Shutdown says how the server ends, as kube-apiserver's flags of these names do.
type Shutdown struct {
	// Delay is how long the server goes on with everything but /readyz when it is told to end.
	Delay time.Duration
	// SendRetryAfter keeps the server listening while requests finish: new ones are told to try again.
	SendRetryAfter bool
	// WatchGrace is the time over which watches are ended.
	WatchGrace time.Duration
}

// inflight counts requests until there are none.
type inflight struct {
	n        atomic.Int64
	draining atomic.Bool
	none     chan struct{} // holds a token when there may be none
}

func newInflight() *inflight { return &inflight{none: make(chan struct{}, 1)} }

func (f *inflight) enter() { f.n.Add(1) }

func (f *inflight) leave() {
	if f.n.Add(-1) == 0 && f.draining.Load() {
		select {
		case f.none <- struct{}{}:
		default:
		}
	}
}

// drain waits until there are none, or ctx ends.
func (f *inflight) drain(ctx context.Context) {
	f.draining.Store(true)
	for f.n.Load() > 0 {
		select {
		case <-f.none:
		case <-ctx.Done():
			return
		}
	}
}

// lasts says that a request lasts as long as its user likes.
func (s *Server) lasts(i *requestInfo) bool {
	if i.verb == "watch" || isLong(i) {
		return true
	}
	return !i.isResource && slices.Contains(s.cfg.LastingPaths, i.path)
}

// withShutdown counts requests, and refuses them while the server ends.
func (s *Server) withShutdown(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i := scopeOf(r).info
		if s.refusing.Load() && !isHealth(i.path) {
			s.terminated(r, http.StatusTooManyRequests)
			w.Header().Set("Connection", "close")
			w.Header().Set("Retry-After", "5")
			w.Header().Del("Cache-Control")
			http.Error(w, "The apiserver is shutting down, please try again later.", http.StatusTooManyRequests)
			return
		}
		if s.lasts(i) {
			s.lasting.enter()
			defer s.lasting.leave()
			next.ServeHTTP(w, r)
			return
		}
		s.brief.enter()
		defer s.brief.leave()
		next.ServeHTTP(w, r)
	})
}

func isHealth(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains(healthKinds(), first)
}

// Drain says that the server will end soon: /readyz fails from now on, and nothing else changes. Run does the same when its
// context ends; who has other things to end first calls it before them.
func (s *Server) Drain() {
	if s.draining.CompareAndSwap(0, time.Now().UnixNano()) {
		s.cfg.Log.Info("shutdown began", "delay", s.cfg.Shutdown.Delay)
	}
}

// stopping says that the server is on its way to its end.
func (s *Server) stopping() bool { return s.draining.Load() != 0 }

// end ends a server step by step: it is not ready; after a delay it takes no new requests and ends watches; requests finish;
// connections close.
func (s *Server) end(server *http.Server, failed <-chan error) {
	s.Drain()
	if delay := time.Until(time.Unix(0, s.draining.Load()).Add(s.cfg.Shutdown.Delay)); s.isReady.Load() && delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case err := <-failed:
			s.cfg.Log.Error("failed while shutting down", "err", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout+s.cfg.Shutdown.WatchGrace)
	defer cancel()
	closed := make(chan struct{})
	if s.cfg.Shutdown.SendRetryAfter || server == nil {
		s.refusing.Store(true)
		close(closed)
	} else {
		go func() { // closes the listener at once
			defer close(closed)
			_ = server.Shutdown(ctx)
		}()
	}
	s.farewells.all.Store(s.lasting.n.Load())
	close(s.stopped)
	s.brief.drain(ctx)
	grace, enough := context.WithTimeout(ctx, s.cfg.Shutdown.WatchGrace+connectionGrace)
	defer enough()
	s.lasting.drain(grace)
	s.shutdown(grace, server)
	cancel()
	<-closed
	s.cfg.Log.Info("requests are finished and connections closed")
}

// connectionGrace is how long connections may take to close when their requests are finished.
const connectionGrace = 2 * time.Second

// shutdown closes the connections of a server without requests.
func (s *Server) shutdown(ctx context.Context, server *http.Server) {
	if server != nil {
		ctx, cancel := context.WithTimeout(ctx, connectionGrace)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			_ = server.Close() // streams that do not end by themselves
		}
	}
	s.connects.Lock() // waits for connections that were taken over; they end because s.stopped is closed
	defer s.connects.Unlock()
}

// farewells spread the ends of watches over time.
type farewells struct{ all, said atomic.Int64 }

// farewellsPerSecond is how many watches end in a second at least.
const farewellsPerSecond = 200

// turn is when the next watch ends, within grace.
func (f *farewells) turn(grace time.Duration) time.Duration {
	if grace <= 0 {
		return 0
	}
	rate := max(farewellsPerSecond, float64(f.all.Load())/grace.Seconds())
	return min(time.Duration(float64(f.said.Add(1)-1)/rate*float64(time.Second)), grace)
}

func (s *Server) httpServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler: s.handler, TLSConfig: s.cfg.TLS, Protocols: protocols,
		ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 1 << 20,
		ErrorLog: slog.NewLogLogger(countingHandler{s.cfg.Log.Handler(), s.metrics.handshakes}, slog.LevelDebug),
	}
	http2.Attach(server, http2.Options{MaxStreams: s.cfg.MaxStreams})
	return server
}

func serve(server *http.Server, l net.Listener) error {
	if server.TLSConfig == nil {
		return server.Serve(l)
	}
	return server.ServeTLS(l, "", "")
}

// countingHandler counts failed handshakes among what the HTTP server logs.
type countingHandler struct {
	slog.Handler
	handshakes *measure.Counter
}

// Enabled implements slog.Handler.
func (h countingHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h countingHandler) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error from") {
		h.handshakes.Inc()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}
