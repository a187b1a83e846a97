// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package events

import (
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/api/resource"
)

// Events are core Events in their new form.
var Events = resource.WithList(resource.Define(resource.Definition[eventsv1.Event]{
	Group: "events.k8s.io", Version: "v1", Kind: "Event", Resource: "events",
	ShortNames:  []string{"ev"},
	Scope:       resource.Namespaced,
	StoragePath: "events",
}), func() runtime.Object { return new(eventsv1.EventList) })
