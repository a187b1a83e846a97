// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/apiserver"
	"knarr.dev/apiserver/stream"
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
	// KubeletPreferredAddressTypes says at which of a node's addresses its agent is called, the most wanted type first. Default
	// Hostname, InternalDNS, InternalIP, ExternalDNS, ExternalIP for the role apiserver, as in Kubernetes. The others begin with
	// InternalIP: nothing says that names of nodes resolve where the server runs.
	KubeletPreferredAddressTypes []string `yaml:"kubeletPreferredAddressTypes"`
}

func (s *ServingConfig) validate(bad func(key, format string, args ...any)) {
	if s.ShutdownDelayDuration < 0 {
		bad("shutdownDelayDuration", "%v is negative", s.ShutdownDelayDuration)
	}
	if s.ShutdownWatchTerminationGracePeriod < 0 {
		bad("shutdownWatchTerminationGracePeriod", "%v is negative", s.ShutdownWatchTerminationGracePeriod)
	}
	for _, t := range s.KubeletPreferredAddressTypes {
		if known := stream.NodeAddressTypes(); !slices.Contains(known, corev1.NodeAddressType(t)) {
			bad("kubeletPreferredAddressTypes", "%q is none of %v", t, known)
		}
	}
}

// nodeAddressTypes is KubeletPreferredAddressTypes with its default.
func (s *ServingConfig) nodeAddressTypes(role Role) []corev1.NodeAddressType {
	var out []corev1.NodeAddressType
	for _, t := range s.KubeletPreferredAddressTypes {
		out = append(out, corev1.NodeAddressType(t))
	}
	if len(out) == 0 && role != RoleAPIServer {
		rest := slices.DeleteFunc(stream.NodeAddressTypes(), func(t corev1.NodeAddressType) bool { return t == corev1.NodeInternalIP })
		out = append([]corev1.NodeAddressType{corev1.NodeInternalIP}, rest...)
	}
	return out
}

func (s *ServingConfig) shutdown() apiserver.Shutdown {
	return apiserver.Shutdown{
		Delay: s.ShutdownDelayDuration, SendRetryAfter: s.ShutdownSendRetryAfter, WatchGrace: s.ShutdownWatchTerminationGracePeriod,
	}
}
