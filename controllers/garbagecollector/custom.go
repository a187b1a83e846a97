// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"context"
	"slices"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/client"
)

// refollow is how long after the end of a view its resource is asked for again: its definition has changed.
const refollow = 200 * time.Millisecond

// custom are the kinds of custom resources, by the names of their definitions.
type custom struct {
	mu    sync.Mutex
	kinds map[string]*followed
}

// followed is one custom resource whose objects are in the graph.
type followed struct {
	kinds []*resource.Kind // the versions; the first stands for the objects
	stop  context.CancelFunc
	done  chan struct{}
}

func (c *custom) all() []*resource.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*resource.Kind
	for _, f := range c.kinds {
		out = append(out, f.kinds...)
	}
	return out
}

// followDefinitions keeps the graph in step with the custom resources that there are, until ctx ends.
func (c *collector) followDefinitions(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	c.custom.mu.Lock()
	c.custom.kinds = map[string]*followed{}
	c.custom.mu.Unlock()
	definitions, err := client.Of(c.client, extension.CustomResourceDefinitions).View(ctx, client.ListOptions{})
	if err != nil {
		return // ctx ended
	}
	_ = definitions.Subscribe(ctx, func(d, old *apiextensionsv1.CustomResourceDefinition) { // it ends with ctx
		if d == nil {
			c.forget(old.Name)
			return
		}
		kinds := extension.Kinds(d)
		c.custom.mu.Lock()
		f := c.custom.kinds[d.Name]
		c.custom.mu.Unlock()
		if f != nil && slices.EqualFunc(f.kinds, kinds, sameKind) {
			return
		}
		c.forget(d.Name)
		if len(kinds) == 0 {
			return
		}
		following, stop := context.WithCancel(ctx)
		f = &followed{kinds: kinds, stop: stop, done: make(chan struct{})}
		c.custom.mu.Lock()
		c.custom.kinds[d.Name] = f
		c.custom.mu.Unlock()
		wg.Go(func() {
			defer close(f.done)
			defer stop()
			c.followCustom(following, kinds[0])
		})
	}, func() {})
}

func sameKind(a, b *resource.Kind) bool {
	return a.GroupVersionKind == b.GroupVersionKind && a.Resource == b.Resource && a.Scope == b.Scope
}

// forget stops following the resource of a definition and takes its objects out of the graph.
func (c *collector) forget(name string) {
	c.custom.mu.Lock()
	f := c.custom.kinds[name]
	delete(c.custom.kinds, name)
	c.custom.mu.Unlock()
	if f != nil {
		f.stop()
		<-f.done
	}
}

// followCustom keeps the graph in step with one custom resource until ctx ends. A view ends when the definition changes;
// then the next one is compared with what is known.
func (c *collector) followCustom(ctx context.Context, k *resource.Kind) {
	known := map[types.UID]bool{}
	defer func() {
		for uid := range known {
			c.tell(c.graph.remove(uid))
		}
	}()
	for ctx.Err() == nil {
		if view, err := c.client.Transport().View(ctx, &call.Request{Kind: k}); err == nil {
			c.followView(ctx, k, view, known)
		}
		select {
		case <-ctx.Done():
		case <-time.After(refollow):
		}
	}
}

func (c *collector) followView(ctx context.Context, k *resource.Kind, view call.View, known map[types.UID]bool) {
	var seen map[types.UID]bool // until the view is complete
	if len(known) > 0 {
		seen = map[types.UID]bool{}
	}
	_ = view.Subscribe(ctx, func(obj, old resource.Object) { // it ends with ctx or with the definition
		if old != nil && (obj == nil || old.GetUID() != obj.GetUID()) {
			delete(known, old.GetUID())
			c.tell(c.graph.remove(old.GetUID()))
		}
		if obj == nil {
			return
		}
		known[obj.GetUID()] = true
		if seen != nil {
			seen[obj.GetUID()] = true
		}
		c.tell(c.graph.put(nodeOf(k, obj)))
	}, func() {
		c.tell(c.graph.lacking(k)) // an owner may have come and gone before the view
		if seen == nil {
			return
		}
		for uid := range known {
			if !seen[uid] {
				delete(known, uid)
				c.tell(c.graph.remove(uid))
			}
		}
		seen = nil
	})
}

func (c *collector) tell(concerned []types.UID) {
	for _, uid := range concerned {
		c.queue.Add(uid)
	}
}
