// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"knarr.dev/apiserver"
)

// ServingConfig says how the API server ends, and what it tells of its process; its fields are kube-apiserver's flags.
type ServingConfig struct {
	// ShutdownDelayDuration is how long the server goes on with everything but /readyz when it is told to end. Default 0.
	ShutdownDelayDuration time.Duration `yaml:"shutdownDelayDuration"`
	// ShutdownSendRetryAfter keeps the server listening while requests finish: new ones are told to try again.
	ShutdownSendRetryAfter bool `yaml:"shutdownSendRetryAfter"`
	// ShutdownWatchTerminationGracePeriod is the time over which watches are ended. Default 0.
	ShutdownWatchTerminationGracePeriod time.Duration `yaml:"shutdownWatchTerminationGracePeriod"`
	// Profiling serves profiles of the process at /debug/pprof. Default true.
	Profiling *bool `yaml:"profiling"`
	// TracingConfigFile is a TracingConfiguration (apiserver.config.k8s.io). Nothing is traced without one.
	TracingConfigFile string `yaml:"tracingConfigFile"`
}

func (s *ServingConfig) validate(bad func(key, format string, args ...any)) {
	if s.ShutdownDelayDuration < 0 {
		bad("shutdownDelayDuration", "%v is negative", s.ShutdownDelayDuration)
	}
	if s.ShutdownWatchTerminationGracePeriod < 0 {
		bad("shutdownWatchTerminationGracePeriod", "%v is negative", s.ShutdownWatchTerminationGracePeriod)
	}
}

func (s *ServingConfig) shutdown() apiserver.Shutdown {
	return apiserver.Shutdown{
		Delay: s.ShutdownDelayDuration, SendRetryAfter: s.ShutdownSendRetryAfter, WatchGrace: s.ShutdownWatchTerminationGracePeriod,
	}
}
