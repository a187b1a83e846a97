// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/proxy/nft"
)

// BenchmarkKernel measures a whole table of many Services, and one change in it, down to the kernel.
func BenchmarkKernel(b *testing.B) {
	const services, endpoints = 2000, 5
	n := newNetwork(b, "10.44.0.11")
	var all []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range services {
		s := testService(fmt.Sprintf("NodePort 10.43.%d.%d 80 nodePort=%d", 1+i/250, 1+i%250, 30000+i))
		var at []string
		for e := range endpoints {
			at = append(at, fmt.Sprintf("10.42.%d.%d@here", i/50, 1+(i*endpoints+e)%250))
		}
		slice := testSlice(corev1.ProtocolTCP, at...)
		s.Name, slice.Name = fmt.Sprintf("web-%d", i), fmt.Sprintf("web-%d-x", i)
		slice.Labels[discoveryv1.LabelServiceName] = s.Name
		all, slices = append(all, s), append(slices, slice)
	}
	b.Run("rules", func(b *testing.B) {
		for b.Loop() {
			Rules(all, slices, n.view)
		}
	})
	b.Run("sync", func(b *testing.B) {
		for b.Loop() {
			if err := n.host.Sync(b.Context(), Rules(all, slices, n.view)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update", func(b *testing.B) {
		few := []string{"10.42.0.3@here", "10.42.0.4@here"}
		for i := 0; b.Loop(); i++ {
			part := partOf(all[7], []*discoveryv1.EndpointSlice{testSlice(corev1.ProtocolTCP, few[i%2])}, n.view)
			if err := n.host.Update(b.Context(), map[string]nft.Part{"ns/web-7": part}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
