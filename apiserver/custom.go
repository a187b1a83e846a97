// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/api/call"
	"knarr.dev/api/extension"
	"knarr.dev/api/resource"
	"knarr.dev/apiserver/crd"
	"knarr.dev/apiserver/webhook"
)

// customKinds serves what the CustomResourceDefinitions define; it is the crd.Server of their loop.
type customKinds struct {
	server   *Server
	families families
	loop     *crd.Loop
	ready    <-chan struct{}
}

// newCustomKinds returns nil if there are no CustomResourceDefinitions.
func newCustomKinds(s *Server) *customKinds {
	if s.registry(extension.CustomResourceDefinitions.Kind) == nil {
		return nil
	}
	c := &customKinds{server: s, families: families{server: s, now: map[schema.GroupResource]*family{}}}
	c.loop = crd.NewLoop(c, crd.Webhooks(webhook.New(s.objects())), crd.NewFigures(s.metrics.set), s.cfg.Log)
	c.ready = c.loop.Ready()
	return c
}

// run serves custom resources until ctx ends.
func (c *customKinds) run(ctx context.Context) {
	defer c.families.close()
	kind := extension.CustomResourceDefinitions.Kind
	cache := c.server.registry(kind).cache
	select {
	case <-cache.Ready():
	case <-ctx.Done():
		return
	}
	c.loop.Run(ctx, cache.View(kind, nil))
}

// Serve implements crd.Server.
func (c *customKinds) Serve(ctx context.Context, hub *resource.Kind, versions []*resource.Kind) error {
	return c.families.serve(ctx, hub, versions)
}

// Withdraw implements crd.Server.
func (c *customKinds) Withdraw(gr schema.GroupResource) { c.families.withdraw(gr) }

// Do implements crd.Server.
func (c *customKinds) Do(ctx context.Context, q *call.Request) (*call.Result, error) {
	return c.server.objects().Do(ctx, q)
}
