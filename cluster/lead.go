// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/client"
)

// task is something that one server at a time does for the whole cluster. run blocks until its context ends, and may be called again
// after that.
type task struct {
	name string
	run  func(context.Context) error
}

// lead runs tasks: at once if this server has the store to itself, else while it holds a lease, which is the one that
// Kubernetes' own component of that name competes for.
func (c *Cluster) lead(lease string, caller *client.Client, tasks []task) error {
	if !c.config.Etcd.used() {
		for _, t := range tasks {
			c.parts.run(t.name, t.run)
		}
		return nil
	}
	identity, err := c.serverIdentity()
	if err != nil {
		return err
	}
	election := client.Election{
		Lease: client.Key{Namespace: "kube-system", Name: lease}, Identity: identity, Log: c.log,
		Lead: func(ctx context.Context, _ int32) error { return runAll(ctx, tasks) },
	}
	c.parts.run("election of "+lease, func(ctx context.Context) error { return election.Run(ctx, caller) })
	return nil
}

// runAll runs tasks until ctx ends or one of them fails.
func runAll(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, t := range tasks {
		all.Go(func() {
			err := t.run(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = errors.New("ended by itself")
			}
			cancel(fmt.Errorf("%s: %w", t.name, err))
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// serverIdentity names this server among those on one etcd. It stays the same over restarts, so that a server that
// crashed need not wait until its own lease expires; the lock of the data directory sees that it is used once.
func (c *Cluster) serverIdentity() (string, error) {
	file := filepath.Join(c.config.DataDir, "server-id")
	data, err := os.ReadFile(file)
	if err == nil && len(data) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	identity := host + "_" + string(uuid.NewUUID())
	return identity, os.WriteFile(file, []byte(identity+"\n"), 0o600)
}
