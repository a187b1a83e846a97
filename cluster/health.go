// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"knarr.dev/apiserver/hooks"
)

// components are the parts of the control plane that ComponentStatuses tell of beside the store. A part of this process works as long
// as the process does, once it has begun; a server that runs none asks where Kubernetes' own programs answer.
func (c *Cluster) components() []hooks.Component {
	elsewhere := func(port int) func(context.Context) error {
		return func(ctx context.Context) error { return ask(ctx, fmt.Sprintf("https://127.0.0.1:%d/healthz", port)) }
	}
	here := func(begun *atomic.Bool) func(context.Context) error {
		return func(context.Context) error {
			if !begun.Load() {
				return errors.New("it has not begun yet")
			}
			return nil
		}
	}
	loops, scheduler := elsewhere(10257), elsewhere(10259)
	if c.config.Role != RoleAPIServer {
		loops = here(&c.loopsBegun)
		if !c.config.NoScheduler {
			scheduler = here(&c.schedulerBegun)
		}
	}
	return []hooks.Component{{Name: "controller-manager", Check: loops}, {Name: "scheduler", Check: scheduler}}
}

// ask returns nil if a server on this machine answers that it is well. Nothing is told to it, so it may be anybody.
func ask(ctx context.Context, url string) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true} //nolint:gosec // see above
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("unhealthy http status code: %d", answer.StatusCode)
	}
	return nil
}
