// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
)

// Clear removes what a proxy with this configuration left behind when it was killed: its table, and the routes and settings that only
// are right with it. What is gone already is no error.
func Clear(ctx context.Context, config Config, log *slog.Logger) error {
	p := New(config, nil, log)
	problems := []error{p.host.Remove(ctx)}
	if p.node.Services.IsValid() {
		problems = append(problems, p.netns.Unroute(p.node.Services))
	}
	if p.node.Loopback() {
		tables, err := p.netns.Tables(ctx)
		if err == nil && !slices.ContainsFunc(tables, func(name string) bool { return strings.HasPrefix(name, tablePrefix) }) {
			_, err = p.netns.Set(routeLocalnet, "0") // which no rule guards any more
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}
