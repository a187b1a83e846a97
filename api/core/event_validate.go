// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the texts of an event.
const (
	eventWordMax    = 128
	eventMessageMax = 1024
)

// validateEvent checks what events of both groups must be; controller is the field of the reporting controller.
func validateEvent(e *corev1.Event, controller string) field.ErrorList {
	var problems field.ErrorList
	elsewhere := func() {
		problems = append(problems, field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace"))
	}
	if e.EventTime.IsZero() {
		switch about := e.InvolvedObject.Namespace; {
		case about == "" && e.Namespace != metav1.NamespaceDefault, about != "" && about != e.Namespace:
			elsewhere()
		}
		return problems
	}
	if e.InvolvedObject.Namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		elsewhere()
	}
	text := func(name, value string, required bool, most int) {
		switch {
		case required && value == "":
			problems = append(problems, field.Required(field.NewPath(name), ""))
		case len(value) > most:
			problems = append(problems, field.Invalid(field.NewPath(name), "", fmt.Sprintf("can have at most %v characters", most)))
		}
	}
	if e.ReportingController == "" {
		problems = append(problems, field.Required(field.NewPath(controller), ""))
	}
	for _, m := range validation.IsQualifiedName(e.ReportingController) {
		problems = append(problems, field.Invalid(field.NewPath(controller), e.ReportingController, m))
	}
	text("reportingInstance", e.ReportingInstance, true, eventWordMax)
	text("action", e.Action, true, eventWordMax)
	text("reason", e.Reason, true, eventWordMax)
	text("message", e.Message, false, eventMessageMax)
	return problems
}

// ValidateNewEvent checks a new event of events.k8s.io, in the core form.
func ValidateNewEvent(e *corev1.Event) field.ErrorList {
	problems := append(validateEvent(e, "reportingController"), validateSeries(e)...)
	if e.EventTime.IsZero() {
		problems = append(problems, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		problems = append(problems, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0}, {"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			problems = append(problems, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))
		}
	}
	return problems
}

func validateSeries(e *corev1.Event) (problems field.ErrorList) {
	if e.Series == nil {
		return nil
	}
	if e.Series.Count < 2 {
		problems = append(problems, field.Invalid(field.NewPath("series", "count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		problems = append(problems, field.Required(field.NewPath("series", "lastObservedTime"), ""))
	}
	return problems
}

// ValidateEventChange checks an update of an event of events.k8s.io, in the core form: only its series may change.
func ValidateEventChange(e, old *corev1.Event) field.ErrorList {
	problems := validateEvent(e, "reportingController")
	same := func(name string, now, was any) {
		problems = append(problems, apivalidation.ValidateImmutableField(now, was, field.NewPath(name))...)
	}
	if e.InvolvedObject != old.InvolvedObject {
		problems = append(problems, field.Invalid(field.NewPath("involvedObject"), shown{&e.InvolvedObject}, apivalidation.FieldImmutableErrorMsg))
	}
	same("reason", e.Reason, old.Reason)
	same("message", e.Message, old.Message)
	if e.Source != old.Source {
		problems = append(problems, field.Invalid(field.NewPath("source"), shown{&e.Source}, apivalidation.FieldImmutableErrorMsg))
	}
	same("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp)
	same("lastTimestamp", e.LastTimestamp, old.LastTimestamp)
	same("count", e.Count, old.Count)
	same("reason", e.Reason, old.Reason) // twice, as Kubernetes does
	same("type", e.Type, old.Type)
	// Its precision in the store is that of JSON.
	if now, was := e.EventTime.UTC(), old.EventTime.UTC(); now.Unix() != was.Unix() || now.Nanosecond()/1000 != was.Nanosecond()/1000 {
		problems = append(problems, field.Invalid(field.NewPath("eventTime"), e.EventTime, apivalidation.FieldImmutableErrorMsg))
	}
	same("action", e.Action, old.Action)
	if (e.Related == nil) != (old.Related == nil) || e.Related != nil && *e.Related != *old.Related {
		problems = append(problems, field.Invalid(field.NewPath("related"), shown{e.Related}, apivalidation.FieldImmutableErrorMsg))
	}
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
	return append(problems, validateSeries(e)...)
}
