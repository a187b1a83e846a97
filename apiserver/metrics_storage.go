// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/resource"
	"knarr.dev/apiserver/measure"
	"knarr.dev/apiserver/watchcache"
	"knarr.dev/store"
)

// storageMetrics are those of the store and of the caches.
func (s *Server) storageMetrics(set *measure.Set) {
	gr := []string{"group", "resource"}
	caches := func(tell func(k *resource.Kind, c *watchcache.Cache)) {
		for c := range s.served.Load().stored() {
			if c.Newest() != nil {
				tell(c.Kind(), c)
			}
		}
	}
	set.Read("apiserver_resource_objects",
		"[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", gr,
		func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) { tell(float64(c.Newest().Len()), k.Group, k.Resource) })
		})
	set.Read("apiserver_storage_objects",
		"[STABLE] (Deprecated since 1.34.0) [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
		[]string{"resource"}, func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) {
				tell(float64(c.Newest().Len()), k.GroupResource().String())
			})
		})
	set.Read("apiserver_resource_size_estimate_bytes",
		"[ALPHA] Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
		gr, func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) {
				objects, each := c.Size()
				tell(float64(objects)*float64(each), k.Group, k.Resource)
			})
		})
	set.Read("apiserver_watch_cache_resource_version",
		"[ALPHA] Current resource version of watch cache broken by resource type. This is truncated to the 15 least significant digits.", gr,
		func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) {
				tell(float64(c.Newest().Revision%1e15), k.Group, k.Resource)
			})
		})
	set.Read("watch_cache_capacity", "[ALPHA] Total capacity of watch cache broken by resource type.", gr,
		func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) { tell(float64(c.Figures().Capacity), k.Group, k.Resource) })
		})
	counted := func(name, help string, of func(watchcache.Figures) int64) {
		set.ReadCounters(name, help, gr, func(tell func(float64, ...string)) {
			caches(func(k *resource.Kind, c *watchcache.Cache) {
				if n := of(c.Figures()); n > 0 {
					tell(float64(n), k.Group, k.Resource)
				}
			})
		})
	}
	counted("apiserver_watch_cache_initializations_total", "[ALPHA] Counter of watch cache initializations broken by resource type.",
		func(f watchcache.Figures) int64 { return f.Initializations })
	counted("apiserver_watch_cache_events_received_total", "[ALPHA] Counter of events received in watch cache broken by resource type.",
		func(f watchcache.Figures) int64 { return f.Received })
	counted("apiserver_storage_events_received_total", "[BETA] Number of etcd events received split by kind.",
		func(f watchcache.Figures) int64 { return f.Received })
	counted("apiserver_watch_cache_events_dispatched_total", "[ALPHA] Counter of events dispatched in watch cache broken by resource type.",
		func(f watchcache.Figures) int64 { return f.Received })
	set.Read("apiserver_storage_size_bytes", "[STABLE] Size of the storage database file physically allocated in bytes.", []string{"storage_cluster_id"},
		func(tell func(float64, ...string)) {
			if s.cfg.StoreSize == nil {
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if n, err := s.cfg.StoreSize(ctx); err == nil {
				tell(float64(n), "etcd-0") // as Kubernetes numbers its stores
			}
		})
}

// measuredStore counts and times what is asked of a store.
type measuredStore struct {
	store.Store
	took     *measure.Family[measure.Histogram]
	requests *measure.Family[measure.Counter]
	failed   *measure.Family[measure.Counter]
	lists    listMetrics
	// names are the resources by their part of keys.
	names map[string]schema.GroupResource

	mu sync.RWMutex
	// known are the figures by what keys begin with: /registry/ and the resource's part.
	known map[string]*storeFigures
}

// Operations of a store.
const (
	opGet = iota
	opList
	opCreate
	opUpdate
	opDelete
	operations
)

// storeFigures are those of one resource's keys.
type storeFigures struct {
	of  schema.GroupResource
	ops [operations]atomic.Pointer[opFigures]
}

type opFigures struct {
	took  *measure.Histogram
	count *measure.Counter
	list  *listFigures // of opList
}

func measureStore(inner store.Store, set *measure.Set, served []*resource.Kind) *measuredStore {
	labels := []string{"group", "operation", "resource"}
	m := &measuredStore{
		Store: inner, lists: newListMetrics(set, "storage", "storage"),
		took: set.Histograms(measure.Seconds(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60),
			"etcd_request_duration_seconds", "[ALPHA] Etcd request latency in seconds for each operation and object type.", labels...),
		requests: set.Counters("etcd_requests_total", "[ALPHA] Etcd request counts for each operation and object type.", labels...),
		failed:   set.Counters("etcd_request_errors_total", "[ALPHA] Etcd failed request counts for each operation and object type.", labels...),
		names:    make(map[string]schema.GroupResource, len(served)), known: map[string]*storeFigures{},
	}
	for _, k := range served {
		if !k.Virtual && k.Stored == nil {
			m.names[k.StoragePath] = k.GroupResource()
		}
	}
	return m
}

const keyRoot = "/registry/"

// prefixOf is the beginning of a key that names its resource: /registry/RESOURCE, or two parts after the root, as in custom resources.
func (m *measuredStore) prefixOf(key string) string {
	rest, ok := strings.CutPrefix(key, keyRoot)
	if !ok {
		return ""
	}
	first, more, _ := strings.Cut(rest, "/")
	end := len(keyRoot) + len(first)
	if _, ok := m.names[first]; !ok && more != "" {
		second, _, _ := strings.Cut(more, "/")
		end += 1 + len(second)
	}
	return key[:end]
}

// tellStorage is how long a call of the store must take to be told apart in the log of slow requests.
const tellStorage = time.Millisecond

// maxResources bounds how many resources the store's figures tell apart.
const maxResources = 4096

// of returns the figures of a key's resource.
func (m *measuredStore) of(key string) *storeFigures {
	prefix := m.prefixOf(key)
	m.mu.RLock()
	f := m.known[prefix]
	m.mu.RUnlock()
	if f != nil {
		return f
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.known[prefix]; f != nil {
		return f
	}
	f = &storeFigures{}
	path := strings.TrimPrefix(prefix, keyRoot)
	if gr, ok := m.names[path]; ok {
		f.of = gr
	} else if group, name, ok := strings.Cut(path, "/"); ok && strings.Contains(group, ".") {
		f.of = schema.GroupResource{Group: group, Resource: name}
	} else {
		f.of.Resource, _, _ = strings.Cut(path, "/")
	}
	if len(m.known) < maxResources {
		m.known[strings.Clone(prefix)] = f
	}
	return f
}

func (m *measuredStore) done(ctx context.Context, key string, op int, began time.Time, objects int, err error) {
	f := m.of(key)
	figures := f.ops[op].Load()
	if figures == nil {
		verb := operationName(op)
		figures = &opFigures{took: m.took.With(f.of.Group, verb, f.of.Resource), count: m.requests.With(f.of.Group, verb, f.of.Resource)}
		if op == opList {
			figures.list = m.lists.of(f.of.Group, f.of.Resource)
		}
		f.ops[op].Store(figures)
	}
	took := time.Since(began)
	figures.took.Took(took)
	figures.count.Inc()
	if figures.list != nil && err == nil {
		figures.list.count(objects, objects)
	}
	if took >= tellStorage {
		if sc, ok := ctx.Value(scopeKey{}).(*scope); ok {
			sc.spent.storage.add(took)
		}
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		m.failed.With(f.of.Group, operationName(op), f.of.Resource).Inc()
	}
}

func operationName(op int) string {
	return [operations]string{"get", "list", "create", "update", "delete"}[op]
}

// Read implements store.Store.
func (m *measuredStore) Read(ctx context.Context, q store.Query) (store.Page, error) {
	began := time.Now()
	page, err := m.Store.Read(ctx, q)
	op := opGet
	if q.Prefix {
		op = opList
	}
	m.done(ctx, q.Key, op, began, len(page.Records), err)
	return page, err
}

// Write implements store.Store.
func (m *measuredStore) Write(ctx context.Context, o store.Op) (store.Record, error) {
	began := time.Now()
	rec, err := m.Store.Write(ctx, o)
	op := opUpdate
	switch {
	case o.Value == nil:
		op = opDelete
	case o.Expect == store.Absent:
		op = opCreate
	}
	if o.End != nil {
		m.done(ctx, o.Key, opDelete, began, 0, err)
	}
	m.done(ctx, o.Key, op, began, 0, err)
	return rec, err
}
