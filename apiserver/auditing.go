// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/yaml"

	"knarr.dev/api/call"
	"knarr.dev/api/codec"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/audit"
)

// withAudit records requests. It comes after authentication, so that the policy knows who asks, and before impersonation.
func (s *Server) withAudit(next http.Handler) http.Handler {
	if s.cfg.Audit == nil && s.cfg.Tracer == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sc := scopeOf(r)
		r, span := s.step(r, "audit")
		defer span.End()
		var rec *audit.Record
		if s.cfg.Audit != nil {
			rec = s.beginAudit(r, sc.user)
		}
		if rec == nil {
			next.ServeHTTP(w, r)
			return
		}
		sc.record = rec
		if rec.Received() != nil {
			notStored(w, r)
			return
		}
		watched := &auditedWriter{ResponseWriter: w}
		if sc.info.verb == "watch" || isLong(sc.info) {
			watched.started = rec.Started
		}
		panicked := true
		defer func() {
			if panicked {
				rec.Panicked()
				return
			}
			rec.Complete(watched.status())
		}()
		next.ServeHTTP(watched, r.WithContext(audit.With(r.Context(), rec)))
		panicked = false
	})
}

// notStored answers a request that must not be served because its arrival was not taken down.
func notStored(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.Error(w, fmt.Sprintf("Internal Server Error: %q: %v", r.URL.Path, audit.ErrNotStored), http.StatusInternalServerError)
}

// auditUnauthenticated records a request whose credentials were refused.
func (s *Server) auditUnauthenticated(r *http.Request) {
	if s.cfg.Audit == nil {
		return
	}
	rec := s.beginAudit(r, nil)
	if rec == nil {
		return
	}
	rec.Status(&metav1.Status{Status: metav1.StatusFailure, Message: "Unauthorized", Reason: metav1.StatusReasonUnauthorized})
	rec.Started(http.StatusUnauthorized)
}

func (s *Server) beginAudit(r *http.Request, user *call.Identity) *audit.Record {
	sc := scopeOf(r)
	i := sc.info
	about := &audit.Request{User: user, Verb: i.verb}
	if i.isResource {
		about.Group, about.Version, about.Resource, about.Subresource = i.group, i.version, i.resource, i.subresource
		about.Namespace, about.Name = i.namespace, i.name
	} else {
		about.Path = i.path
	}
	return s.cfg.Audit.Begin(about, audit.Origin{
		ID: sc.id, URI: r.URL.RequestURI(), UserAgent: r.UserAgent(), SourceIPs: sources(r), Received: sc.received,
	})
}

// sources are the addresses that a request came through, the client's first.
func sources(r *http.Request) (ips []string) {
	add := func(s string) {
		ip := net.ParseIP(strings.TrimSpace(s))
		if ip != nil && (len(ips) == 0 || ips[len(ips)-1] != ip.String()) {
			ips = append(ips, ip.String())
		}
	}
	for part := range strings.SplitSeq(r.Header.Get("X-Forwarded-For"), ",") {
		add(part)
	}
	if len(ips) == 0 {
		add(r.Header.Get("X-Real-Ip"))
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		add(host)
	}
	return ips
}

// auditedWriter sees the status of an answer.
type auditedWriter struct {
	http.ResponseWriter
	code    int
	started func(code int)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *auditedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *auditedWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
		if w.started != nil {
			w.started(code)
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *auditedWriter) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

func (w *auditedWriter) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

// recordRequest records the body of a request.
func recordRequest(rec *audit.Record, reg *registry, q *call.Request) {
	switch q.Verb {
	case "create", "update":
		if b, err := codec.EncodeJSON(reg.subKind(q.Subresource), q.Object); err == nil {
			rec.Request(b, q.Object)
		}
	case "patch":
		body := q.Patch
		if q.PatchType == types.ApplyYAMLPatchType {
			if b, err := yaml.YAMLToJSON(body); err == nil {
				body = b
			}
		}
		if json.Valid(body) {
			rec.Request(body, nil)
		}
	case "delete", "deletecollection":
		if q.Delete == nil || isEmptyOptions(q.Delete) {
			return
		}
		options := *q.Delete
		options.Kind, options.APIVersion = "DeleteOptions", "meta.k8s.io/__internal"
		if b, err := json.Marshal(&options); err == nil {
			rec.Request(b, nil)
		}
	}
}

func isEmptyOptions(o *metav1.DeleteOptions) bool {
	return o.GracePeriodSeconds == nil && o.Preconditions == nil && o.PropagationPolicy == nil && len(o.DryRun) == 0
}

// recordAnswer records what a request came to.
func recordAnswer(rec *audit.Record, reg *registry, subresource string, a *answer) {
	if a.entry != nil {
		rec.Named(a.entry.Object.GetName())
	}
	if a.status != nil {
		rec.Status(a.status)
	}
	if !rec.WantsResponse() {
		return
	}
	var body []byte
	var err error
	switch {
	case a.entry != nil:
		if body, err = a.entry.JSON(); err == nil {
			body = codec.WithKind(make([]byte, 0, len(body)+64), a.entry.Kind.GroupVersionKind, body)
		}
	case a.list != nil:
		body, err = listJSON(reg, a.list)
	case a.object != nil:
		body, err = codec.EncodeJSON(a.gvk, a.object)
	case a.status != nil:
		body, err = codec.EncodeJSON(statusKind(), a.status)
	}
	if err == nil && body != nil {
		rec.Response(body)
	}
}

// recordStatus records an answer that is an error.
func recordStatus(rec *audit.Record, s *metav1.Status) {
	rec.Status(s)
	if !rec.WantsResponse() {
		return
	}
	if b, err := codec.EncodeJSON(statusKind(), s); err == nil {
		rec.Response(b)
	}
}

// audited begins the record of a request of this process; finish ends it. With an error the request must not be served.
func (t *transport) audited(ctx context.Context, q *call.Request) (recorded context.Context, finish func(*call.Result, error), err error) {
	k := q.Kind
	rec := t.server.cfg.Audit.Begin(&audit.Request{
		User: t.user, Verb: q.Verb, Group: k.Group, Version: k.Version, Resource: k.Resource, Subresource: q.Subresource,
		Namespace: q.Namespace, Name: q.Name,
	}, audit.Origin{ID: string(uuid.NewUUID()), URI: pathOf(q), UserAgent: "knarr", Received: time.Now()})
	if rec == nil {
		return ctx, func(*call.Result, error) {}, nil
	}
	if err := rec.Received(); err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	reg := t.server.registry(k)
	if rec.WantsRequest() && reg != nil {
		recordRequest(rec, reg, q)
	}
	return audit.With(ctx, rec), func(result *call.Result, err error) {
		code := http.StatusOK
		switch {
		case err != nil:
			s := statusOf(err)
			recordStatus(rec, s)
			code = int(s.Code)
		case result != nil:
			if result.Created {
				code = http.StatusCreated
			}
			recordResult(rec, k, result)
		}
		rec.Complete(code)
	}, nil
}

func recordResult(rec *audit.Record, k *resource.Kind, result *call.Result) {
	if result.Status != nil {
		rec.Status(result.Status)
	}
	if result.Object == nil {
		return
	}
	rec.Named(result.Object.GetName())
	if rec.WantsResponse() {
		if b, err := codec.EncodeJSON(k.GroupVersionKind, result.Object); err == nil {
			rec.Response(b)
		}
	}
}

// pathOf is the path that a request would have over HTTP.
func pathOf(q *call.Request) string {
	k := q.Kind
	path := "/api/" + k.Version
	if k.Group != "" {
		path = "/apis/" + k.Group + "/" + k.Version
	}
	if q.Namespace != "" {
		path += "/namespaces/" + q.Namespace
	}
	path += "/" + k.Resource
	if q.Name != "" {
		path += "/" + q.Name
	}
	if q.Subresource != "" {
		path += "/" + q.Subresource
	}
	if q.Verb == "watch" {
		path += "?watch=true"
	}
	return path
}
