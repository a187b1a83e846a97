// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"knarr.dev/api/codec"
	"knarr.dev/store"
)

// Version is the Kubernetes version whose API is served, as /version tells it.
func Version() version.Info {
	return version.Info{
		Major: "1", Minor: "36", EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GitVersion: "v1.36.3+knarr", GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// check is one named part of health.
type check struct {
	name string
	run  func(context.Context) error
}

func (s *Server) checks(path string) []check {
	ping := check{"ping", func(context.Context) error { return nil }}
	etcd := check{"etcd", func(ctx context.Context) error {
		_, err := s.cfg.Store.Read(ctx, store.Query{Key: "/registry/health"})
		return err
	}}
	caches := check{"informer-sync", func(context.Context) error {
		for _, c := range s.caches {
			if c.Newest() == nil {
				return fmt.Errorf("%s is not in the cache yet", c.Kind().Kind)
			}
		}
		return nil
	}}
	started := check{"poststarthook/bootstrap", func(context.Context) error {
		if !s.isReady.Load() {
			return fmt.Errorf("not finished")
		}
		return nil
	}}
	log := check{"log", ping.run}
	switch path {
	case "readyz":
		return []check{ping, log, etcd, caches, started, {"shutdown", func(context.Context) error {
			select {
			case <-s.stopped:
				return fmt.Errorf("process is shutting down")
			default:
				return nil
			}
		}}}
	}
	return []check{ping, log, etcd, started}
}

// serveOther answers the paths that are not resources.
func (s *Server) serveOther(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(r.URL.Path, "/")
	first, rest, _ := strings.Cut(path, "/")
	switch {
	case first == "healthz" || first == "livez" || first == "readyz":
		s.serveHealth(w, r, first, rest)
	case path == "version":
		info := Version()
		writeObjectPlain(w, r, &info)
	case path == "metrics":
		promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	case first == "debug" && s.serveProfile(w, r, rest):
	default:
		http.NotFound(w, r)
	}
}

// serveProfile serves the Go runtime's profiles at Kubernetes' paths, /debug/pprof; false for other paths.
func (s *Server) serveProfile(w http.ResponseWriter, r *http.Request, path string) bool {
	name, ok := strings.CutPrefix(path, "pprof")
	if !ok || name != "" && name[0] != '/' {
		return false
	}
	switch name {
	case "/cmdline":
		pprof.Cmdline(w, r)
	case "/profile":
		pprof.Profile(w, r)
	case "/symbol":
		pprof.Symbol(w, r)
	case "/trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return true
}

func (s *Server) servesVersion(i *requestInfo) bool {
	return i.isResource && s.versions[schema.GroupVersion{Group: i.group, Version: i.version}]
}

func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, kind, one string) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	var out strings.Builder
	excluded := r.URL.Query()["exclude"]
	failed, found := false, one == ""
	for _, c := range s.checks(kind) {
		if one != "" && c.name != one {
			continue
		}
		found = true
		if contains(excluded, c.name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(ctx); err != nil {
			failed = true
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			s.cfg.Log.Debug("health check failed", "check", c.name, "err", err)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case !found:
		http.NotFound(w, r)
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", out.String(), kind)
	case one == "" && r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", out.String(), kind)
	default:
		fmt.Fprint(w, "ok")
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// writeObjectPlain answers with JSON that is no API object.
func writeObjectPlain(w http.ResponseWriter, r *http.Request, v any) {
	b, err := codec.MarshalJSON(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, r, accepted{media: codec.JSON, pretty: true}, http.StatusOK, b)
}
