// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/watchcache"
)

// kinds are what is served at one moment. A change makes new ones: requests go on with those that they began with.
type kinds struct {
	registries map[*resource.Kind]*registry
	resources  map[schema.GroupVersionResource]*registry
	versions   map[schema.GroupVersion]bool
	caches     []*watchcache.Cache
	all        []*resource.Kind
}

// registry returns what serves a kind, or nil. Kinds of CustomResourceDefinitions are known by their names, since their
// values change with the definition.
func (s *Server) registry(kind *resource.Kind) *registry {
	served := s.served.Load()
	if r := served.registries[kind]; r != nil || kind.Custom == nil {
		return r
	}
	return served.resources[kind.GroupVersionResource()]
}

func (s *Server) resource(gvr schema.GroupVersionResource) *registry {
	return s.served.Load().resources[gvr]
}

// addKinds serves kinds from the start.
func (s *Server) addKinds(list []*resource.Kind) error {
	served := &kinds{
		registries: map[*resource.Kind]*registry{}, resources: map[schema.GroupVersionResource]*registry{},
		versions: map[schema.GroupVersion]bool{},
	}
	s.served.Store(served)
	for _, k := range list {
		if served.resources[k.GroupVersionResource()] != nil {
			return fmt.Errorf("apiserver: resource %s is listed twice", k.GroupVersionResource())
		}
		r := &registry{server: s, kind: k, hub: k}
		if k.Stored != nil {
			r.hub = k.Stored.Hub
		}
		served.add(r)
		if !k.Virtual && k.Stored == nil {
			r.cache = watchcache.New(watchcache.Config{Kind: k, Store: s.cfg.Store, Log: s.cfg.Log})
			served.caches = append(served.caches, r.cache)
		}
	}
	for _, r := range served.registries {
		if r.kind.Stored == nil {
			continue
		}
		hub := served.registries[r.hub]
		if hub == nil {
			return fmt.Errorf("apiserver: %s is stored as %s, which is not served", r.kind.GroupVersionKind, r.hub.GroupVersionKind)
		}
		r.cache = hub.cache
	}
	return nil
}

func (k *kinds) add(r *registry) {
	k.registries[r.kind], k.resources[r.kind.GroupVersionResource()] = r, r
	k.versions[r.kind.GroupVersion()] = true
	k.all = append(k.all, r.kind)
}

// stored are all caches, those of custom resources too.
func (k *kinds) stored() map[*watchcache.Cache]bool {
	out := map[*watchcache.Cache]bool{}
	for _, r := range k.registries {
		if r.cache != nil {
			out[r.cache] = true
		}
	}
	return out
}

// without is a copy that does not serve a resource of a group.
func (k *kinds) without(gr schema.GroupResource) *kinds {
	out := &kinds{
		registries: map[*resource.Kind]*registry{}, resources: map[schema.GroupVersionResource]*registry{},
		versions: map[schema.GroupVersion]bool{}, caches: slices.Clone(k.caches),
	}
	for _, kind := range k.all {
		if kind.GroupResource() != gr {
			out.add(k.registries[kind])
		}
	}
	return out
}

// family serves one resource of a CustomResourceDefinition: all its versions, over one cache of its own.
type family struct {
	kinds []*resource.Kind
	hub   *resource.Kind
	cache *watchcache.Cache
	stop  context.CancelFunc
	done  chan struct{} // closed when the cache has stopped
}

// families are the custom resources that are served. One goroutine changes them.
type families struct {
	server *Server
	wg     sync.WaitGroup // of the caches
	now    map[schema.GroupResource]*family
}

// serve serves the versions of a resource, of which hub is the one that is stored (itself perhaps not served), from when its
// objects are in memory; whatever served the resource before ends then.
func (f *families) serve(ctx context.Context, hub *resource.Kind, versions []*resource.Kind) error {
	gr := hub.GroupResource()
	old := f.now[gr]
	config := watchcache.Config{Kind: hub, Store: f.server.cfg.Store, Log: f.server.cfg.Log}
	if old != nil {
		config.Before = old.cache
	}
	ctx, stop := context.WithCancel(ctx)
	made := &family{kinds: versions, hub: hub, cache: watchcache.New(config), stop: stop, done: make(chan struct{})}
	f.wg.Go(func() {
		defer close(made.done)
		defer made.cache.Close()
		_ = made.cache.Run(ctx) // it ends with ctx
	})
	select {
	case <-made.cache.Ready():
	case <-made.done:
		stop()
		return fmt.Errorf("read objects of %s: %w", gr, ctx.Err())
	}
	s := f.server
	next := s.served.Load().without(gr)
	for _, k := range versions {
		next.add(&registry{server: s, kind: k, hub: hub, cache: made.cache})
	}
	s.served.Store(next)
	f.now[gr] = made
	s.fields.Set(next.all)
	f.end(old)
	f.changed(next)
	return nil
}

// withdraw stops serving a resource.
func (f *families) withdraw(gr schema.GroupResource) {
	old := f.now[gr]
	if old == nil {
		return
	}
	next := f.server.served.Load().without(gr)
	f.server.served.Store(next)
	delete(f.now, gr)
	f.server.fields.Set(next.all)
	f.end(old)
	f.changed(next)
}

func (f *families) end(old *family) {
	if old == nil {
		return
	}
	old.stop()
	f.server.views.Range(func(key, _ any) bool {
		if slices.Contains(old.kinds, key.(viewKey).kind) {
			f.server.views.Delete(key)
		}
		return true
	})
}

func (f *families) changed(now *kinds) {
	if tell := f.server.cfg.KindsChanged; tell != nil {
		tell(slices.Clone(now.all))
	}
	if f.server.others != nil {
		f.server.others.kindsChanged()
	}
}

// close ends all caches.
func (f *families) close() {
	for _, one := range f.now {
		one.stop()
	}
	f.wg.Wait()
}
