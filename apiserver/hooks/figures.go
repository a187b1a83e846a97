// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package hooks

import (
	"net/netip"
	"time"

	"knarr.dev/apiserver/measure"
)

// Figures count what Services get, under Kubernetes' names. All methods do nothing on nil.
type Figures struct {
	addresses, ports given
	took             *measure.Family[measure.Histogram]
	portRepairs      *measure.Counter
}

// given counts what was given away, and what could not be.
type given struct {
	total, errors *measure.Family[measure.Counter]
}

// NewFigures adds figures to a set.
func NewFigures(set *measure.Set) *Figures {
	const addresses, ports = "kube_apiserver_clusterip_allocator_allocation", "kube_apiserver_nodeport_allocator_allocation"
	return &Figures{
		addresses: given{
			set.Counters(addresses+"_total", "[ALPHA] Number of Cluster IPs allocations", "cidr", "scope"),
			set.Counters(addresses+"_errors_total", "[ALPHA] Number of errors trying to allocate Cluster IPs", "cidr", "scope"),
		},
		ports: given{
			set.Counters(ports+"_total", "[ALPHA] Number of NodePort allocations", "scope"),
			set.Counters(ports+"_errors_total", "[ALPHA] Number of errors trying to allocate NodePort", "scope"),
		},
		took: set.Histograms(measure.Seconds(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
			addresses+"_duration_seconds", "[ALPHA] Duration in seconds to allocate a Cluster IP by ServiceCIDR", "cidr"),
		portRepairs: set.Counters("apiserver_nodeport_repair_reconcile_errors_total",
			"[ALPHA] Number of reconciliation failures on the nodeport repair reconcile loop").With(),
	}
}

// scope tells what was asked for by name from what was chosen.
func scope(named bool) string {
	if named {
		return "static"
	}
	return "dynamic"
}

// address counts an address that a Service got.
func (f *Figures) address(cidr netip.Prefix, named bool, took time.Duration) {
	if f != nil {
		f.addresses.total.With(cidr.String(), scope(named)).Inc()
		f.took.With(cidr.String()).Took(took)
	}
}

// noAddress counts an address that a Service did not get.
func (f *Figures) noAddress(cidr netip.Prefix, named bool) {
	if f != nil {
		f.addresses.errors.With(cidr.String(), scope(named)).Inc()
	}
}

// gotPorts counts node ports that a Service got.
func (f *Figures) gotPorts(named bool, n int) {
	if f != nil && n > 0 {
		f.ports.total.With(scope(named)).Add(uint64(n))
	}
}

// noPort counts a node port that a Service did not get.
func (f *Figures) noPort(named bool) {
	if f != nil {
		f.ports.errors.With(scope(named)).Inc()
	}
}

// portsRepaired counts a failure to compare node ports with Services.
func (f *Figures) portsRepaired(err error) {
	if f != nil && err != nil {
		f.portRepairs.Inc()
	}
}
