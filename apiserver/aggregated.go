// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/aggregate"
)

// aggregated sends requests for groups that other servers serve on to them.
type aggregated struct {
	server  *Server
	handler *aggregate.Handler
	changed chan struct{} // the kinds of this server changed; has room for one
}

// newAggregated returns nil if there are no APIServices.
func newAggregated(s *Server) *aggregated {
	if s.registry(extension.APIServices.Kind) == nil {
		return nil
	}
	a := &aggregated{server: s, changed: make(chan struct{}, 1)}
	a.handler = aggregate.New(aggregate.Config{Server: s.objects(), ClientTLS: s.cfg.FrontProxyTLS, Changed: a.tell, Log: s.cfg.Log})
	return a
}

func (a *aggregated) tell() {
	if f := a.server.cfg.RemotesChanged; f != nil {
		f(a.handler.Remotes())
	}
}

// kindsChanged makes the APIServices follow the kinds.
func (a *aggregated) kindsChanged() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// run follows the APIServices until ctx ends.
func (a *aggregated) run(ctx context.Context) {
	kind := extension.APIServices.Kind
	cache := a.server.registry(kind).cache
	select {
	case <-cache.Ready():
	case <-ctx.Done():
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { a.handler.Run(ctx, cache.View(kind, nil)) })
	select {
	case <-a.server.ready: // the APIServices of the first kinds are made by then
	case <-ctx.Done():
		return
	}
	a.kindsChanged()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.changed:
		}
		if err := a.handler.SyncCustom(ctx, a.server.served.Load().all); err != nil && ctx.Err() == nil {
			a.server.cfg.Log.Warn("API services of custom resources", "err", err)
			wg.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
					a.kindsChanged()
				}
			})
		}
	}
}

// serves answers a request if its path is of a group and version of another server.
func (a *aggregated) serves(w http.ResponseWriter, r *http.Request) bool {
	parts := strings.SplitN(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/"), "/", 4)
	if len(parts) < 3 || parts[0] != "apis" {
		return false
	}
	gv := schema.GroupVersion{Group: parts[1], Version: parts[2]}
	if !a.handler.Serves(gv) {
		return false
	}
	if sc := scopeOf(r); sc.info.verb == "watch" {
		sc.begun() // when it has begun there only the other server knows
	}
	a.handler.ServeHTTP(w, r, gv, scopeOf(r).user)
	return true
}

// localServices are the APIServices of the kinds that the server has from the start.
func (s *Server) localServices(add func(*resource.Kind, resource.Object, func(resource.Object) bool)) {
	for _, service := range aggregate.Local(s.cfg.Kinds) {
		add(extension.APIServices.Kind, service, nil)
	}
}
