// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"knarr.dev/api/call"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/tracing"
)

// groupMonitoring is the group of those who watch over a cluster.
const groupMonitoring = "system:monitoring"

// withTracing begins the span of a request. It comes after authentication, since only of administrators and monitoring counts which trace
// they say that a request belongs to.
//
// See https://kubernetes.io/docs/concepts/cluster-administration/system-traces/.
func (s *Server) withTracing(next http.Handler) http.Handler {
	if s.cfg.Tracer == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := scopeOf(r)
		ctx, span := s.cfg.Tracer.Request(r, strings.TrimSpace(r.Method+" "+routeOf(sc.info)), mayJoin(sc.user))
		r = r.WithContext(ctx)
		if !span.Recording() {
			next.ServeHTTP(w, r)
			return
		}
		span.Set(aboutRequest(r, sc)...)
		answer := &measured{ResponseWriter: w}
		finished := false
		defer func() {
			code := answer.status()
			if !finished && answer.code == 0 {
				code = http.StatusInternalServerError
			}
			span.Set(attribute.Int64("http.response.body.size", answer.size))
			span.Answered(code, nil)
		}()
		next.ServeHTTP(answer, r)
		finished = true
	})
}

// mayJoin says whether a user's requests belong to the traces that they name.
func mayJoin(user *call.Identity) bool {
	return slices.Contains(user.Groups, authn.GroupMasters) || slices.Contains(user.Groups, groupMonitoring)
}

// routeOf is the path of a request for a resource, without the names in it; empty for others.
func routeOf(i *requestInfo) string {
	if !i.isResource {
		return ""
	}
	var b strings.Builder
	if i.group == "" {
		b.WriteString("/api/" + i.version)
	} else {
		b.WriteString("/apis/" + i.group + "/" + i.version)
	}
	if i.namespace != "" && i.resource != "namespaces" {
		b.WriteString("/namespaces/{:namespace}")
	}
	b.WriteString("/" + i.resource)
	if i.name != "" {
		b.WriteString("/{:name}")
	}
	if i.subresource != "" {
		b.WriteString("/" + i.subresource)
	}
	return b.String()
}

func aboutRequest(r *http.Request, sc *scope) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	about := []attribute.KeyValue{
		attribute.String("http.request.method", r.Method), attribute.String("url.scheme", scheme), attribute.String("url.path", r.URL.Path),
		attribute.String("http.target", r.URL.RequestURI()), attribute.String("server.address", r.Host),
		attribute.String("client.address", strings.Join(sources(r), ",")), attribute.String("user_agent.original", r.UserAgent()), attribute.String("audit-id", sc.id),
	}
	if r.ContentLength > 0 {
		about = append(about, attribute.Int64("http.request.body.size", r.ContentLength))
	}
	return about
}

// step begins the span of a step of the pipeline. What follows lies inside of it, as in Kubernetes.
func (s *Server) step(r *http.Request, name string) (*http.Request, tracing.Span) {
	if s.cfg.Tracer == nil {
		return r, tracing.Span{}
	}
	ctx, span := s.cfg.Tracer.Start(r.Context(), name)
	if span.Recording() {
		r = r.WithContext(ctx)
	}
	return r, span
}

// serveTraced is serveReachable in a span of its own.
func (s *Server) serveTraced(w http.ResponseWriter, r *http.Request, reg *registry) {
	i := scopeOf(r).info
	name := actionOf(i.verb)
	if i.verb == "watch" {
		name = "cacher.Watch"
	}
	ctx, span := s.cfg.Tracer.Start(r.Context(), name)
	if !span.Recording() {
		s.serveReachable(w, r, reg)
		return
	}
	defer span.End()
	span.Set(attribute.String("audit-id", scopeOf(r).id), attribute.String("user-agent", r.UserAgent()),
		attribute.String("api-group", i.group), attribute.String("api-version", i.version), attribute.String("resource", i.resource),
		attribute.String("subresource", i.subresource), attribute.String("namespace", i.namespace), attribute.String("name", i.name),
		attribute.String("verb", measuredVerb(i.verb)), attribute.String("accept", r.Header.Get("Accept")), attribute.String("protocol", r.Proto))
	s.serveReachable(w, r.WithContext(ctx), reg)
}

// doTraced is Do in a span, as a request over HTTP has one.
func (t *transport) doTraced(ctx context.Context, q *call.Request) (result *call.Result, err error) {
	i := requestInfo{
		isResource: true, group: q.Kind.Group, version: q.Kind.Version, resource: q.Kind.Resource,
		namespace: q.Namespace, name: q.Name, subresource: q.Subresource,
	}
	ctx, span := t.server.cfg.Tracer.Local(ctx, call.Method(q.Verb)+" "+routeOf(&i))
	if !span.Recording() {
		return t.measured(ctx, q)
	}
	span.Set(attribute.String("http.request.method", call.Method(q.Verb)), attribute.String("url.path", pathOf(q)), attribute.String("user_agent.original", "knarr"))
	defer func() {
		code := http.StatusOK
		switch {
		case err != nil:
			code = int(statusOf(err).Code)
		case result == nil:
			code = http.StatusInternalServerError
		case result.Created:
			code = http.StatusCreated
		}
		span.Answered(code, nil)
	}()
	inner, action := t.server.cfg.Tracer.Start(ctx, actionOf(q.Verb))
	defer action.End()
	return t.measured(inner, q)
}

// actionOf is what spans call a verb.
func actionOf(verb string) string {
	switch verb {
	case "create":
		return "Create"
	case "get":
		return "Get"
	case "list":
		return "List"
	case "update":
		return "Update"
	case "patch":
		return "Patch"
	case "delete", "deletecollection":
		return "Delete"
	}
	return "Connect"
}

// storing begins the span of what a request does to the store.
func (r *registry) storing(ctx context.Context, name string, o *operation) (context.Context, tracing.Span) {
	ctx, span := r.server.cfg.Tracer.Start(ctx, name)
	if span.Recording() {
		span.Set(attribute.String("key", strings.TrimPrefix(r.key(o.Namespace, o.Name), "/registry")),
			attribute.String("group", r.hub.Group), attribute.String("resource", r.hub.Resource))
	}
	return ctx, span
}
