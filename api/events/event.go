// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package events

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Events are core Events in their new form.
var Events = resource.StoredAs(resource.WithList(resource.Define(resource.Definition[eventsv1.Event]{
	Group: "events.k8s.io", Version: "v1", Kind: "Event", Resource: "events",
	ShortNames: []string{"ev"},
	Scope:      resource.Namespaced,
	ValidateCreate: func(e *eventsv1.Event) field.ErrorList {
		c, _ := toCore(e)
		return core.ValidateNewEvent(c)
	},
	ValidateUpdate: func(e, old *eventsv1.Event) field.ErrorList {
		now, _ := toCore(e)
		was, _ := toCore(old)
		return core.ValidateEventChange(now, was)
	},
	Columns: columns(),
	Fields: func(e *eventsv1.Event) fields.Set {
		set := fields.Set{"reason": e.Reason, "reportingController": e.ReportingController, "type": e.Type}
		c, _ := toCore(e)
		for name, value := range core.Events.Fields(c) {
			if rest, ok := strings.CutPrefix(name, "involvedObject."); ok {
				set["regarding."+rest] = value
			}
		}
		return set
	},
	FieldNames: []string{
		"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
		"regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type",
	},
}), func() runtime.Object { return new(eventsv1.EventList) }), core.Events, toCore, fromCore)

func toCore(e *eventsv1.Event) (*corev1.Event, error) {
	c := &corev1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Action: e.Action, Reason: e.Reason, Type: e.Type, Message: e.Note,
		InvolvedObject: e.Regarding, Related: e.Related, Source: e.DeprecatedSource,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp, Count: e.DeprecatedCount,
	}
	if e.Series != nil {
		c.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return c, nil
}

func fromCore(c *corev1.Event) (*eventsv1.Event, error) {
	e := &eventsv1.Event{
		ObjectMeta: c.ObjectMeta, EventTime: c.EventTime, Action: c.Action, Reason: c.Reason, Type: c.Type, Note: c.Message,
		Regarding: c.InvolvedObject, Related: c.Related, DeprecatedSource: c.Source,
		ReportingController: c.ReportingController, ReportingInstance: c.ReportingInstance,
		DeprecatedFirstTimestamp: c.FirstTimestamp, DeprecatedLastTimestamp: c.LastTimestamp, DeprecatedCount: c.Count,
	}
	if c.Series != nil {
		e.Series = &eventsv1.EventSeries{Count: c.Series.Count, LastObservedTime: c.Series.LastObservedTime}
	}
	return e, nil
}

// columns are those of core Events.
func columns() []resource.Column[eventsv1.Event] {
	var all []resource.Column[eventsv1.Event]
	for _, c := range core.Events.Columns {
		all = append(all, resource.Column[eventsv1.Event]{
			Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Wide: c.Wide,
			Value: func(e *eventsv1.Event, now time.Time) any {
				event, _ := toCore(e)
				return c.Value(event, now)
			},
		})
	}
	return all
}
