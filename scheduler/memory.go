// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"knarr.dev/scheduler/plugins"
	"knarr.dev/scheduler/snapshot"
)

// maxFailures bounds the failures that are remembered.
const maxFailures = 1024

// failure is why a pod got no node, and when.
type failure struct {
	message string
	helps   plugins.Event
	moment  int64
}

// memory remembers failures, so that of thousands of pods alike that an event made worth another try, only one is
// tried in vain: what could not be placed cannot be placed until something that helps happens. It belongs to one
// goroutine.
type memory map[string]failure

func (m memory) keep(signature string, f failure) {
	if signature == "" {
		return
	}
	if len(m) >= maxFailures {
		clear(m)
	}
	m[signature] = f
}

// signature is the same for pods that fit on the same nodes and may preempt the same pods; empty if that cannot be told.
func signature(p *snapshot.Pod) string {
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return ""
		}
	}
	var b strings.Builder
	r := &p.Requests
	fmt.Fprintln(&b, p.Namespace, p.Spec.Priority != nil, p.Rank, r.CPU, r.Memory, r.Ephemeral)
	if policy := p.Spec.PreemptionPolicy; policy != nil {
		b.WriteString(string(*policy))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Others)) {
		fmt.Fprintln(&b, name, r.Others[name])
	}
	for _, set := range []map[string]string{p.Labels, p.Spec.NodeSelector} {
		for _, key := range slices.Sorted(maps.Keys(set)) {
			fmt.Fprintf(&b, "%q=%q ", key, set[key])
		}
		b.WriteByte('\n')
	}
	for i := range p.Ports {
		fmt.Fprintln(&b, p.Ports[i].HostIP, p.Ports[i].HostPort, p.Ports[i].Protocol)
	}
	var parts []marshaler
	if p.Spec.Affinity != nil {
		parts = append(parts, p.Spec.Affinity)
	}
	for i := range p.Spec.Tolerations {
		parts = append(parts, &p.Spec.Tolerations[i])
	}
	for i := range p.Spec.TopologySpreadConstraints {
		parts = append(parts, &p.Spec.TopologySpreadConstraints[i])
	}
	for _, part := range parts {
		body, err := part.Marshal()
		if err != nil {
			return ""
		}
		fmt.Fprintf(&b, "%d:%s", len(body), body)
	}
	return b.String()
}

type marshaler interface{ Marshal() ([]byte, error) }
