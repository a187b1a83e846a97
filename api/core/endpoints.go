// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Endpoints lists the addresses behind a Service, in the old form.
var Endpoints = resource.WithList(resource.Define(resource.Definition[corev1.Endpoints]{
	Group: "", Version: "v1", Kind: "Endpoints", Resource: "endpoints",
	ShortNames:     []string{"ep"},
	Scope:          resource.Namespaced,
	CreateOnUpdate: true,
	Validate:       validateEndpoints,
	Default: func(e *corev1.Endpoints) {
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				orDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	},
	Columns: []resource.Column[corev1.Endpoints]{
		{Name: "Endpoints", Value: func(e *corev1.Endpoints, _ time.Time) any { return endpointsText(e) }},
	},
	StoragePath: "services/endpoints",
}), func() runtime.Object { return new(corev1.EndpointsList) })

// endpointsText lists at most three addresses.
func endpointsText(e *corev1.Endpoints) string {
	var all []string
	count := 0
	add := func(text string) {
		if count++; count <= 3 {
			all = append(all, text)
		}
	}
	for _, subset := range e.Subsets {
		for _, a := range subset.Addresses {
			for _, p := range subset.Ports {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
			if len(subset.Ports) == 0 {
				add(a.IP)
			}
		}
	}
	text := strings.Join(all, ",")
	if count > 3 {
		text += fmt.Sprintf(" + %d more...", count-3)
	}
	return orNone(text)
}
