// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"

	"knarr.dev/cluster"
)

// requestFlags are named as those of kube-apiserver.
func requestFlags(c *cluster.RequestConfig) []flag {
	return []flag{
		{"enable-priority-and-fairness", "share the API server out by FlowSchemas and priority levels (default true)", &c.EnablePriorityAndFairness},
		{"max-requests-inflight", "with priority and fairness, a summand of the requests at once, else the bound of reads; 0 is none (default 400)", &c.MaxRequestsInflight},
		{"max-mutating-requests-inflight", "the other summand, or the bound of writes (default 200)", &c.MaxMutatingRequestsInflight},
		{"request-timeout", "how long a request may take that does not stream (default 1m)", &c.RequestTimeout},
		{"min-request-timeout", "seconds that a watch lasts at least if its client does not say (default 1800)", &c.MinRequestTimeout},
		{"http2-max-streams-per-connection", "requests at once on one HTTP/2 connection (default 1000)", &c.HTTP2MaxStreamsPerConnection},
		{"goaway-chance", "fraction of requests whose connection is ended, to spread clients over servers; 0.02 at most", &c.GoawayChance},
	}
}

// optionalInt is a number that may be unset.
type optionalInt struct{ value **int }

// Set implements pflag.Value.
func (o optionalInt) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err == nil {
		*o.value = &n
	}
	return err
}

// Type implements pflag.Value.
func (o optionalInt) Type() string { return "int" }

// String implements pflag.Value.
func (o optionalInt) String() string {
	if o.value == nil || *o.value == nil {
		return ""
	}
	return strconv.Itoa(**o.value)
}
