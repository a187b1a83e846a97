// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Events report what happened to other objects.
var Events = resource.WithList(resource.Define(resource.Definition[corev1.Event]{
	Group: "", Version: "v1", Kind: "Event", Resource: "events",
	ShortNames:     []string{"ev"},
	Scope:          resource.Namespaced,
	TTL:            time.Hour,
	CreateOnUpdate: true,
	Validate:       func(e *corev1.Event) field.ErrorList { return validateEvent(e, "reportingComponent") },
	Columns: []resource.Column[corev1.Event]{
		{Name: "Last Seen", Value: func(e *corev1.Event, now time.Time) any { return lastSeen(e, now) }},
		{Name: "Type", Value: func(e *corev1.Event, _ time.Time) any { return e.Type }},
		{Name: "Reason", Value: func(e *corev1.Event, _ time.Time) any { return e.Reason }},
		{Name: "Object", Value: func(e *corev1.Event, _ time.Time) any {
			return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
		}},
		{Name: "Subobject", Wide: true, Value: func(e *corev1.Event, _ time.Time) any { return e.InvolvedObject.FieldPath }},
		{Name: "Source", Wide: true, Value: func(e *corev1.Event, _ time.Time) any { return eventSource(e) }},
		{Name: "Message", Value: func(e *corev1.Event, _ time.Time) any { return strings.TrimSpace(e.Message) }},
		{Name: "First Seen", Wide: true, Value: func(e *corev1.Event, now time.Time) any {
			if e.FirstTimestamp.IsZero() {
				return age(metav1.Time{Time: e.EventTime.Time}, now)
			}
			return age(e.FirstTimestamp, now)
		}},
		{Name: "Count", Wide: true, Value: func(e *corev1.Event, _ time.Time) any { return eventCount(e) }},
		{Name: "Name", Wide: true, Value: func(e *corev1.Event, _ time.Time) any { return e.Name }},
	},
	Fields: eventFields,
	FieldNames: []string{
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	},
}), func() runtime.Object { return new(corev1.EventList) })

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	o := e.InvolvedObject
	return fields.Set{
		"involvedObject.kind": o.Kind, "involvedObject.namespace": o.Namespace, "involvedObject.name": o.Name,
		"involvedObject.uid": string(o.UID), "involvedObject.apiVersion": o.APIVersion,
		"involvedObject.resourceVersion": o.ResourceVersion, "involvedObject.fieldPath": o.FieldPath,
		"reason": e.Reason, "reportingComponent": e.ReportingController, "source": source, "type": e.Type,
	}
}

func lastSeen(e *corev1.Event, now time.Time) string {
	last := e.LastTimestamp
	if last.IsZero() {
		last = metav1.Time{Time: e.EventTime.Time}
	}
	if e.Series != nil {
		last = metav1.Time{Time: e.Series.LastObservedTime.Time}
	}
	return age(last, now)
}

func eventSource(e *corev1.Event) string {
	if e.Source.Component == "" {
		return strings.Trim(e.ReportingController+", "+e.ReportingInstance, ", ")
	}
	return strings.Trim(e.Source.Component+", "+e.Source.Host, ", ")
}

// eventCount is how often an event happened: single events of the new API have no count.
func eventCount(e *corev1.Event) int64 {
	if e.Series != nil {
		return int64(e.Series.Count)
	}
	return int64(max(1, e.Count))
}
