// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"knarr.dev/apiserver"
)

// RequestConfig bounds what requests to the API server may take. The keys are Kubernetes' flags in the form of other keys; the zero
// value is Kubernetes' default.
type RequestConfig struct {
	// EnablePriorityAndFairness, true by default, shares the server out among clients by FlowSchemas and priority levels.
	EnablePriorityAndFairness *bool `yaml:"enablePriorityAndFairness"`
	// MaxRequestsInflight and MaxMutatingRequestsInflight, 400 and 200 by default, are summed up for priority and fairness. Without it
	// they bound reads and writes, and 0 is no bound.
	MaxRequestsInflight         *int `yaml:"maxRequestsInflight"`
	MaxMutatingRequestsInflight *int `yaml:"maxMutatingRequestsInflight"`
	// RequestTimeout is how long a request may take that does not stream. Default 1m.
	RequestTimeout time.Duration `yaml:"requestTimeout"`
	// MinRequestTimeout is how many seconds a watch lasts at least if its client does not say. Default 1800.
	MinRequestTimeout int `yaml:"minRequestTimeout"`
	// HTTP2MaxStreamsPerConnection bounds the requests of one connection. Default 1000.
	HTTP2MaxStreamsPerConnection int `yaml:"http2MaxStreamsPerConnection"`
	// GoawayChance is the fraction of requests whose connection is ended, so that clients spread over several servers. Default 0.
	GoawayChance float64 `yaml:"goawayChance"`
}

// maxGoawayChance is the largest fraction that makes sense: one request of fifty.
const maxGoawayChance = 0.02

func (c *RequestConfig) validate(bad func(key, format string, args ...any)) {
	all, mutating := inflight(c.MaxRequestsInflight, 400), inflight(c.MaxMutatingRequestsInflight, 200)
	if all < 0 {
		bad("maxRequestsInflight", "%d is negative", all)
	}
	if mutating < 0 {
		bad("maxMutatingRequestsInflight", "%d is negative", mutating)
	}
	if yes(c.EnablePriorityAndFairness) && all+mutating <= 0 {
		bad("maxRequestsInflight", "it and maxMutatingRequestsInflight must add up to more than 0 with priority and fairness")
	}
	if c.RequestTimeout < 0 {
		bad("requestTimeout", "%v is negative", c.RequestTimeout)
	}
	if c.MinRequestTimeout < 0 {
		bad("minRequestTimeout", "%d is negative", c.MinRequestTimeout)
	}
	if c.HTTP2MaxStreamsPerConnection < 0 {
		bad("http2MaxStreamsPerConnection", "%d is negative", c.HTTP2MaxStreamsPerConnection)
	}
	if c.GoawayChance < 0 || c.GoawayChance > maxGoawayChance {
		bad("goawayChance", "%v is not between 0 and %v", c.GoawayChance, maxGoawayChance)
	}
}

func inflight(n *int, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return *n
}

// bound takes the limits over into the server's configuration, where 0 stands for the default and -1 for none.
func (c *RequestConfig) bound(s *apiserver.Config) {
	limit := func(n *int) int {
		if n := inflight(n, 0); n != 0 {
			return n
		}
		if n == nil {
			return 0
		}
		return -1
	}
	s.Unfair = !yes(c.EnablePriorityAndFairness)
	s.MaxInFlight, s.MaxMutatingInFlight = limit(c.MaxRequestsInflight), limit(c.MaxMutatingRequestsInflight)
	s.RequestTimeout, s.MinWatchTimeout = c.RequestTimeout, time.Duration(c.MinRequestTimeout)*time.Second
	s.MaxStreams, s.GoawayChance = c.HTTP2MaxStreamsPerConnection, c.GoawayChance
}
