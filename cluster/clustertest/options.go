// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"log/slog"
	"time"

	"knarr.dev/cluster"
	"knarr.dev/node/simulated"
)

// Option is a wish for a cluster.
type Option func(*options)

type options struct {
	config  cluster.Config
	timeout time.Duration
	level   slog.Level
	verbose bool
}

func defaults() options {
	return options{config: cluster.Config{SimulatedNodes: 1}, timeout: 30 * time.Second, level: slog.LevelInfo}
}

// Nodes sets the number of simulated nodes, which are called simulated-1, simulated-2 and so on. There is one by default.
func Nodes(n int) Option {
	return func(o *options) {
		o.config.SimulatedNodes = n
		if n == 0 && o.config.Role == "" {
			o.config.Role = cluster.RoleServer
		}
	}
}

// Delays makes things on the nodes take time; they happen at once by default.
func Delays(d simulated.Delays) Option { return func(o *options) { o.config.SimulatedDelays = d } }

// DataDir keeps the cluster's state in a directory, so that another cluster of the same test can go on with it. By default it
// is in memory.
func DataDir(dir string) Option { return func(o *options) { o.config.DataDir = dir } }

// APIServerOnly starts an API server and nothing else: no loop, no node writes to it, as with envtest.
func APIServerOnly() Option {
	return func(o *options) { o.config.Role, o.config.SimulatedNodes = cluster.RoleAPIServer, 0 }
}

// WithoutScheduler starts no scheduler: pods stay pending unless the test binds them.
func WithoutScheduler() Option { return func(o *options) { o.config.NoScheduler = true } }

// Controllers selects control loops as kube-controller-manager's --controllers does: "*" all, "name" one, "-name" not that one.
func Controllers(patterns ...string) Option {
	return func(o *options) { o.config.Controllers = patterns }
}

// WithoutSockets serves clients in the process only: Client, not RESTConfig. Use it in the virtual time of testing/synctest.
func WithoutSockets() Option { return func(o *options) { o.config.NoSockets = true } }

// WaitAtMost sets how long Wait and its relatives wait before they fail the test; 30 seconds by default.
func WaitAtMost(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// Verbose writes all that the cluster logs to the test's output as it happens.
func Verbose() Option {
	return func(o *options) { o.verbose, o.level = true, slog.LevelDebug }
}

// Configure changes anything else of the cluster's configuration.
func Configure(change func(*cluster.Config)) Option { return func(o *options) { change(&o.config) } }
