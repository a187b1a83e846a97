// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/streaming/pkg/httpstream"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/table"
)

// serveResource answers a request for a resource of a kind that is served here.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, reg *registry) {
	sc := scopeOf(r)
	if err := s.reachable(reg, sc.info, r.Method); err != nil {
		if errors.Is(err, errNoPage) {
			http.NotFound(w, r)
		} else {
			writeError(w, r, err)
		}
		return
	}
	serve := s.serveReachable
	if s.cfg.Tracer != nil {
		serve = s.serveTraced
	}
	s.measure(w, r, reg, serve)
}

// serveReachable answers a request for a path and method that the resource has.
func (s *Server) serveReachable(w http.ResponseWriter, r *http.Request, reg *registry) {
	sc := scopeOf(r)
	if isConnect(reg.kind, sc.info.subresource) {
		if err := s.serveConnect(w, r, reg); err != nil {
			writeError(w, r, err)
		}
		return
	}
	form, err := s.chooseForm(w, r, reg)
	if err != nil {
		writeError(w, r, err)
		return
	}
	q, warnings, err := s.decodeRequest(w, r, reg)
	if err != nil {
		writeErrorWith(w, r, err, warnings)
		return
	}
	if sc.record.WantsRequest() {
		recordRequest(sc.record, reg, q)
	}
	warnings = append(warnings, orphansWarning(q)...)
	if q.Verb == "watch" && reg.kind.Virtual {
		writeError(w, r, apierrors.NewMethodNotSupported(reg.kind.GroupResource(), q.Verb))
		return
	}
	if q.Verb == "watch" {
		if err := watchable(sc.info, q, form); err != nil {
			writeError(w, r, err)
			return
		}
		stream, err := s.watch(r.Context(), q)
		if err != nil {
			writeError(w, r, err)
			return
		}
		defer stream.close()
		if len(stream.pending) == 0 {
			sc.begun()
		}
		s.serveWatch(w, r, stream, form)
		return
	}
	a, err := s.execute(r.Context(), sc.user, q, &sc.spent)
	if err != nil {
		if a != nil {
			warnings = append(warnings, a.warnings...)
		}
		writeErrorWith(w, r, err, warnings)
		return
	}
	a.warnings = append(warnings, a.warnings...)
	if sc.record != nil {
		recordAnswer(sc.record, reg, q.Subresource, a)
	}
	_, span := s.cfg.Tracer.Start(r.Context(), "SerializeObject")
	s.writeAnswer(w, r, reg, form, a)
	span.End()
	release(&s.values, a.stored)
	a.stored = nil
	if sc.record == nil && reg.kind.Custom == nil && copied(q) {
		release(&s.bodies, sc.body)
		sc.body = nil
	}
}

// copied says of a request for a Go type that nothing of its body is left in what was made of it.
func copied(q *call.Request) bool {
	switch q.Verb {
	case "create", "update":
		return true
	case "patch":
		return q.PatchType == types.MergePatchType || q.PatchType == types.StrategicMergePatchType
	}
	return false
}

// tableless says of a subresource that Kubernetes has no Tables of it.
func tableless(k *resource.Kind, sub string) bool {
	switch k.Resource {
	case "pods":
		return sub == "ephemeralcontainers" || sub == "resize"
	case "namespaces":
		return sub == "finalize"
	case "certificatesigningrequests":
		return sub == "approval"
	case "apiservices", "customresourcedefinitions", "resourceclaims":
		return sub == "status"
	}
	return false
}

// watchable refuses what can be seen to be wrong with a watch before it begins.
func watchable(i *requestInfo, q *call.Request, form accepted) error {
	if _, err := table.ParseInclude(form.include); err != nil && form.as == "Table" {
		return err
	}
	if name, ok := exactName(q.Fields); ok && i.pathName != "" && name != i.pathName {
		return apierrors.NewBadRequest("fieldSelector metadata.name doesn't match requested name")
	}
	return nil
}

// chooseForm finds the form of the answer. A request whose media types no handler takes gets no warning about its kind.
func (s *Server) chooseForm(w http.ResponseWriter, r *http.Request, reg *registry) (accepted, error) {
	sc := scopeOf(r)
	if sc.info.verb == "patch" {
		if _, err := patchType(r, reg.kind); err != nil {
			return accepted{}, err
		}
	}
	verb := sc.info.verb
	o := offer{
		custom: reg.kind.Custom != nil, proto: reg.proto(),
		noTable: verb == "create" && (reg.kind.Virtual || sc.info.subresource != "") || tableless(reg.kind, sc.info.subresource),
	}
	if (verb == "list" || verb == "watch") && !o.routable(acceptOf(r)) {
		return accepted{}, notAcceptable(strings.Join(o.medias(), ", ") + ", " + streams)
	}
	choose := negotiate
	if verb == "watch" {
		choose = negotiateWatch
	}
	form, err := choose(r, o)
	if text := deprecated(reg.kind); text != "" && !unroutable(err) {
		addWarnings(w, []string{text})
		k := reg.kind
		s.metrics.deprecated.With(k.Group, "", k.Resource, sc.info.subresource, k.Version).Set(1)
	}
	return form, err
}

// deprecated is the warning with every answer about a kind that has a successor.
func deprecated(k *resource.Kind) string {
	if k.Custom != nil {
		return k.Custom.Warning
	}
	if k.Group == "" && k.Resource == "endpoints" {
		return "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	}
	if k.Group == "" && k.Resource == "componentstatuses" {
		return "v1 ComponentStatus is deprecated in v1.19+"
	}
	return ""
}

// serveConnect hands a request over to streams and proxies; it ends with the server.
func (s *Server) serveConnect(w http.ResponseWriter, r *http.Request, reg *registry) error {
	sc := scopeOf(r)
	if s.cfg.Connect == nil {
		return notFoundPath()
	}
	switch {
	case sc.info.subresource == "log":
		if err := logRoutable(r); err != nil {
			return err
		}
	case r.URL.Query().Has("dryRun"):
		return apierrors.NewBadRequest("dryRun is not supported")
	}
	if r.Method == http.MethodGet && sc.info.subresource != "log" && sc.info.subresource != "proxy" && httpstream.IsUpgradeRequest(r) {
		// A command is no reading, though WebSockets open with GET: who may start one with POST may do so with GET.
		a := sc.info.attributes()
		a.User, a.Verb = sc.user, "create"
		if err := s.authorize(r.Context(), a); err != nil {
			return err
		}
	}
	q := &call.Request{
		Verb: "connect", Kind: reg.kind, Namespace: sc.info.namespace, Name: sc.info.name, Subresource: sc.info.subresource,
	}
	if err := s.admitConnect(w, r, reg, q); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	s.connects.RLock()
	defer s.connects.RUnlock()
	go func() {
		select {
		case <-s.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	s.cfg.Connect(w, r.WithContext(ctx), sc.user, q)
	return nil
}

// decodeRequest makes a call.Request of an HTTP request.
func (s *Server) decodeRequest(w http.ResponseWriter, r *http.Request, reg *registry) (*call.Request, []string, error) {
	i := scopeOf(r).info
	q := &call.Request{Verb: i.verb, Kind: reg.kind, Namespace: i.namespace, Name: i.name, Subresource: i.subresource}
	if reg.kind.Resource == "namespaces" && reg.kind.Group == "" {
		q.Namespace = ""
	}
	if reg.kind.Custom != nil && i.verb == "create" && i.subresource == "" {
		q.Name = "" // the path may name one, of which only authorization takes notice
	}
	query := queryOf(r)
	switch i.verb {
	case "get":
		q.ResourceVersion = query.Get("resourceVersion")
		return q, nil, nil
	case "list", "watch":
		return q, nil, listOptions(q, query)
	}
	if i.verb != "delete" && i.verb != "deletecollection" {
		if err := writeOptions(q, query); err != nil {
			return nil, nil, err
		}
	}
	var warnings []string
	if i.verb == "patch" {
		var err error
		if q.PatchType, err = patchType(r, reg.kind); err != nil {
			return nil, nil, err
		}
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, nil, err
	}
	if i.verb == "patch" {
		if err := patchOptions(q, query); err != nil {
			return nil, nil, err
		}
	}
	if q.FieldManager == "" && q.PatchType != types.ApplyYAMLPatchType {
		q.FieldManager, q.ManagerImplied = managerOf(r.UserAgent()), true
	}
	switch i.verb {
	case "create", "update":
		warnings, err = s.decodeBody(r, reg, q, body)
	case "patch":
		q.Patch = body
	case "delete", "deletecollection":
		if i.verb == "deletecollection" {
			if err := listOptions(q, query); err != nil {
				return nil, nil, err
			}
		}
		err = deleteOptions(q, r, body)
	}
	return q, warnings, err
}

// managerOf derives a field manager from a user agent.
func managerOf(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, name)
	return name[:min(len(name), validation.FieldManagerMaxLength)]
}
