// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/audit"
	"knarr.dev/apiserver/authn"
	"knarr.dev/apiserver/authz"
	"knarr.dev/apiserver/watchcache"
)

// transport is the pipeline without sockets and encoding, for one identity: flow control, authorization, then the
// same registry as for requests over HTTP.
type transport struct {
	server *Server
	user   *call.Identity
}

// Transport returns the way into the server for a component of the same process.
func (s *Server) Transport(identity call.Identity) call.Transport {
	if identity.Name != authn.Anonymous {
		identity.Groups = append(identity.Groups[:len(identity.Groups):len(identity.Groups)], authn.GroupAuthenticated)
	}
	return &transport{server: s, user: &identity}
}

// attributes are what a decision about q depends on.
func attributes(user *call.Identity, q *call.Request) *authz.Attributes {
	a := &authz.Attributes{
		User: user, Verb: q.Verb, Group: q.Kind.Group, Version: q.Kind.Version, Resource: q.Kind.Resource,
		Subresource: q.Subresource, Namespace: q.Namespace, Name: q.Name, Fields: q.Fields, Labels: q.Labels,
	}
	if a.Fields == nil {
		a.Fields = fields.Everything()
	}
	if name, ok := a.Fields.RequiresExactMatch("metadata.name"); ok && a.Name == "" && (q.Verb == "list" || q.Verb == "watch") {
		a.Name = name // as in requests over HTTP
	}
	return a
}

// authorize returns Forbidden unless user may do what a says.
func (s *Server) authorize(ctx context.Context, a *authz.Attributes) error {
	_, err := s.decide(ctx, a)
	return err
}

// decide is authorize with the reason for the decision.
func (s *Server) decide(ctx context.Context, a *authz.Attributes) (string, error) {
	if s.authorizer == nil {
		return "", nil
	}
	allowed, reason, err := s.authorizer.Authorize(ctx, a)
	if allowed {
		return reason, nil
	}
	if ctx.Err() != nil { // whoever asked has gone: nothing was decided
		return "", ctx.Err()
	}
	if err != nil && reason == "" {
		return "", apierrors.NewInternalError(err)
	}
	return reason, authz.Forbidden(a, reason)
}

// Do implements call.Transport.
func (t *transport) Do(ctx context.Context, q *call.Request) (*call.Result, error) {
	if t.server.cfg.Tracer != nil {
		return t.doTraced(ctx, q)
	}
	return t.measured(ctx, q)
}

func (t *transport) measured(ctx context.Context, q *call.Request) (*call.Result, error) {
	s := t.server
	done, err := s.admit(ctx, t.user, q)
	if err != nil {
		return nil, err
	}
	defer done()
	return s.measureCall(t.user, q, func(parts *spent) (*call.Result, error) {
		if s.cfg.Audit == nil {
			return t.do(ctx, q, parts)
		}
		ctx, finish, err := t.audited(ctx, q)
		if err != nil {
			return nil, err
		}
		result, err := t.do(ctx, q, parts)
		finish(result, err)
		return result, err
	})
}

func (t *transport) do(ctx context.Context, q *call.Request, parts *spent) (*call.Result, error) {
	s := t.server
	reason, err := s.decide(ctx, attributes(t.user, q))
	audit.Of(ctx).Decided(err == nil, reason)
	if err != nil {
		return nil, err
	}
	if q.FieldManager == "" && q.PatchType != types.ApplyYAMLPatchType {
		q.FieldManager, q.ManagerImplied = managerFor(t.user), true
	}
	a, err := s.execute(ctx, t.user, q, parts)
	if err != nil {
		return nil, err
	}
	if r := s.registry(q.Kind); r != nil && r.cache != nil && q.Verb != "get" && q.Verb != "list" {
		// Whoever wrote finds the write in its views: loops need not remember what they did.
		if _, err := r.cache.Recent(ctx); err != nil {
			return nil, r.status(q.Name, err)
		}
	}
	return a.result(), nil
}

func (a *answer) result() *call.Result {
	out := &call.Result{Created: a.created, Warnings: a.warnings, Status: a.status, Object: a.object}
	if a.entry != nil {
		out.Object = a.entry.Object
	}
	if a.list != nil {
		out.List = &call.List{
			Items:           make([]resource.Object, len(a.list.entries)),
			ResourceVersion: a.list.meta.ResourceVersion, Continue: a.list.meta.Continue,
			Remaining: a.list.meta.RemainingItemCount,
		}
		for i, e := range a.list.entries {
			out.List.Items[i] = e.Object
		}
	}
	return out
}

// Watch implements call.Transport.
func (t *transport) Watch(ctx context.Context, q *call.Request) (call.Stream, error) {
	q.Verb = "watch"
	done, err := t.server.admit(ctx, t.user, q)
	if err != nil {
		return nil, err
	}
	defer done() // it has begun by then
	finish := func(*call.Result, error) {}
	if t.server.cfg.Audit != nil {
		var err error
		if ctx, finish, err = t.audited(ctx, q); err != nil {
			return nil, err
		}
	}
	reason, err := t.server.decide(ctx, attributes(t.user, q))
	audit.Of(ctx).Decided(err == nil, reason)
	if err != nil {
		finish(nil, err)
		return nil, err
	}
	w, err := t.server.watch(ctx, q)
	finish(nil, err)
	if err != nil {
		return nil, err
	}
	return newLocalStream(w), nil
}

// viewKey names one question for a view.
type viewKey struct {
	kind           *resource.Kind
	labels, fields string
}

// View implements call.Transport: it is the watch cache itself, filtered.
func (t *transport) View(ctx context.Context, q *call.Request) (call.View, error) {
	s := t.server
	r := s.registry(q.Kind)
	if r == nil || r.cache == nil {
		return nil, apierrors.NewMethodNotSupported(q.Kind.GroupResource(), "watch")
	}
	for _, verb := range []string{"list", "watch"} {
		a := attributes(t.user, &call.Request{Verb: verb, Kind: q.Kind, Fields: q.Fields})
		if err := s.authorize(ctx, a); err != nil {
			return nil, err
		}
	}
	if err := r.checkListOptions(&call.Request{Fields: q.Fields, Labels: q.Labels}, false); err != nil {
		return nil, err
	}
	select {
	case <-r.cache.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	key := viewKey{kind: r.kind}
	if q.Labels != nil {
		key.labels = q.Labels.String()
	}
	if q.Fields != nil {
		key.fields = q.Fields.String()
	}
	if v, ok := s.views.Load(key); ok {
		return v.(*watchcache.View), nil
	}
	v, _ := s.views.LoadOrStore(key, r.cache.View(r.kind, r.matcher(q)))
	return v.(*watchcache.View), nil
}
