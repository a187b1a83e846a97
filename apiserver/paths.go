// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"

	"knarr.dev/api/codec"
)

// serveOther answers the paths that are not resources.
func (s *Server) serveOther(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	first, rest, _ := strings.Cut(path, "/")
	switch {
	case path == "" || path == "index.html":
		writeObjectPlain(w, r, map[string]any{"paths": s.paths()})
	case slices.Contains(healthKinds(), first) && path != first+"/":
		s.countPath(w, r, "/"+first, func(w http.ResponseWriter) { s.serveHealth(w, r, first, rest) })
	case path == "version" || path == "version/":
		if r.Method != http.MethodGet {
			writeError(w, r, notAllowed())
			return
		}
		if !jsonTaken(acceptOf(r)) {
			writeError(w, r, notAcceptable(codec.JSON))
			return
		}
		info := Version()
		writeObjectPlain(w, r, &info)
	case path == "metrics":
		s.serveMetrics(w, r)
	case path == "metrics/slis":
		s.serveHealthMetrics(w, r)
	case path == "statusz":
		s.statusz().serve(w, r)
	case path == "flagz":
		s.flagz().serve(w, r)
	case path == "debug/flags/v" && !s.cfg.NoProfiling:
		serveVerbosity(w, r, s.cfg.Level)
	case (path == "debug/flags" || strings.HasPrefix(path, "debug/flags/")) && !s.cfg.NoProfiling:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, flagsPage)
	case first == "debug" && !s.cfg.NoProfiling && serveProfile(w, r, rest):
	case first == "debug" && s.serveFlows(w, r, strings.TrimPrefix(rest, "api_priority_and_fairness/")):
	case first == "api" || first == "apis" && s.servesGroup(rest):
		writeError(w, r, notFoundPath())
	default:
		http.NotFound(w, r)
	}
}

// servesGroup says whether a path below /apis begins with a group that the server has.
func (s *Server) servesGroup(path string) bool {
	group, _, below := strings.Cut(path, "/")
	for gv := range s.served.Load().versions {
		if below && group != "" && gv.Group == group {
			return true
		}
	}
	return false
}

func (s *Server) servesVersion(i *requestInfo) bool {
	return i.isResource && s.served.Load().versions[schema.GroupVersion{Group: i.group, Version: i.version}]
}

// paths lists what the server answers, for people who look around.
func (s *Server) paths() []string {
	all := map[string]bool{
		"/.well-known/openid-configuration": true, "/openid/v1/jwks": true, "/api": true, "/apis": true, "/apis/": true,
		"/flagz": true, "/metrics": true, "/metrics/slis": true, "/openapi/v2": true, "/openapi/v3": true, "/openapi/v3/": true, "/statusz": true, "/version": true,
	}
	for gv := range s.served.Load().versions {
		if gv.Group == "" {
			all["/api/"+gv.Version] = true
			continue
		}
		all["/apis/"+gv.Group], all["/apis/"+gv.String()] = true, true
	}
	for _, kind := range healthKinds() {
		all["/"+kind] = true
		for _, c := range s.checks(kind) {
			all["/"+kind+"/"+c.name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// serveHealthMetrics tells the result of each check of health as a metric.
func (s *Server) serveHealthMetrics(w http.ResponseWriter, r *http.Request) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_healthcheck", Help: "[STABLE] This metric records the result of a single healthcheck.",
	}, []string{"name", "type"})
	for _, kind := range healthKinds() {
		for _, c := range s.checks(kind) {
			if c.run(r.Context()) == nil {
				gauge.WithLabelValues(c.name, kind).Set(1)
			} else {
				gauge.WithLabelValues(c.name, kind).Set(0)
			}
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(gauge)
	s.tellMetrics(w, r, registry, promhttp.HandlerOpts{})
}

// serveMetrics tells the figures of the server, of the other parts of the process, and of the process.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	s.tellMetrics(w, r, prometheus.Gatherers{s.cfg.Metrics, s.metrics.process()}, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
	})
}

// tellMetrics answers with figures, under the headers that kube-apiserver sends.
func (s *Server) tellMetrics(w http.ResponseWriter, r *http.Request, figures prometheus.Gatherer, options promhttp.HandlerOpts) {
	w.Header().Set("Process-Start-Time-Unix", strconv.FormatInt(s.began.Unix(), 10))
	promhttp.HandlerFor(figures, options).ServeHTTP(&unvaried{ResponseWriter: w}, r)
}

// unvaried sends an answer without saying on which headers it depends.
type unvaried struct {
	http.ResponseWriter
	begun bool
}

// WriteHeader implements http.ResponseWriter.
func (u *unvaried) WriteHeader(code int) {
	u.begun = true
	u.Header().Del("Vary")
	u.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (u *unvaried) Write(b []byte) (int, error) {
	if !u.begun {
		u.WriteHeader(http.StatusOK)
	}
	return u.ResponseWriter.Write(b)
}

// maxVerbosity bounds the body of a request that sets the verbosity.
const maxVerbosity = 64

// flagsPage lists what can be set below /debug/flags, in Kubernetes' words.
const flagsPage = `<html>
<head>
<title>/debug/flags/</title>
</head>
<body>
/debug/flags/<br>
<br>
flags:<br>
<table>
<tr>v<br>
</table>
<br>
full flags configurable<br>
</body>
</html>
`

// serveVerbosity sets how much the process and its libraries log.
func serveVerbosity(w http.ResponseWriter, r *http.Request, own *slog.LevelVar) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodPut {
		w.WriteHeader(http.StatusNotAcceptable)
		fmt.Fprintln(w, "unsupported http method")
		return
	}
	var verbosity uint64
	body, err := io.ReadAll(io.LimitReader(r.Body, maxVerbosity))
	if err == nil {
		verbosity, err = strconv.ParseUint(string(body), 10, 31)
	}
	if err == nil {
		var level klog.Level
		err = level.Set(string(body))
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, err)
		return
	}
	if own != nil {
		own.Set(levelOf(int(verbosity)))
	}
	fmt.Fprintf(w, "successfully set klog.logging.verbosity to %s\n", body)
}

// levelOf is the least level that is logged at a verbosity. Without any it is that of warnings, as by default.
func levelOf(verbosity int) slog.Level {
	if verbosity == 0 {
		return slog.LevelWarn
	}
	return slog.Level(-verbosity)
}

// serveProfile serves the Go runtime's profiles at Kubernetes' paths, /debug/pprof; false for other paths.
func serveProfile(w http.ResponseWriter, r *http.Request, path string) bool {
	name, ok := strings.CutPrefix(path, "pprof")
	if !ok || name != "" && name[0] != '/' {
		return false
	}
	switch name {
	case "":
		http.Redirect(w, r, "/debug/pprof/", http.StatusFound)
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

// writeObjectPlain answers with JSON that is no API object.
func writeObjectPlain(w http.ResponseWriter, r *http.Request, v any) {
	b, err := codec.MarshalJSON(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, r, accepted{media: codec.JSON, pretty: true}, http.StatusOK, b)
}

// jsonTaken says whether an Accept header names JSON or everything.
func jsonTaken(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		if media, _, _ := strings.Cut(part, ";"); header == "" || strings.TrimSpace(media) == codec.JSON || strings.TrimSpace(media) == "*/*" {
			return true
		}
	}
	return false
}
