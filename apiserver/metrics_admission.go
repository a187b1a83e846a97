// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"knarr.dev/apiserver/admission"
	"knarr.dev/apiserver/measure"
)

// Phases of admission.
const (
	admit = iota
	validating
	phases
)

func phaseName(phase int) string { return [phases]string{"admit", "validate"}[phase] }

// Operations of admission.
const (
	opConnect = iota
	opAdmitCreate
	opAdmitUpdate
	opAdmitDelete
	admissionOperations
)

func admissionOperation(verb string) int {
	switch verb {
	case "create":
		return opAdmitCreate
	case "update":
		return opAdmitUpdate
	case "delete":
		return opAdmitDelete
	}
	return opConnect
}

func admissionOperationName(op int) string {
	return [admissionOperations]string{"CONNECT", "CREATE", "UPDATE", "DELETE"}[op]
}

// pluginFigures are how long one step of admission took, or all of a phase, by phase, operation and whether it refused. They come into
// being when they are needed.
type pluginFigures [phases][admissionOperations][2]atomic.Pointer[measure.Histogram]

func (f *pluginFigures) of(phase, op int, refused bool, family *measure.Family[measure.Histogram], name ...string) *measure.Histogram {
	at := &f[phase][op][0]
	if refused {
		at = &f[phase][op][1]
	}
	if h := at.Load(); h != nil {
		return h
	}
	h := family.With(append(name, admissionOperationName(op), strconv.FormatBool(refused), phaseName(phase))...)
	at.Store(h)
	return h
}

func (m *metrics) admissions(set *measure.Set) {
	buckets := measure.Seconds(0.005, 0.025, 0.1, 0.5, 1, 2.5)
	m.admission = set.Histograms(buckets, "apiserver_admission_step_admission_duration_seconds",
		"[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
		"operation", "rejected", "type")
	m.plugins = set.Histograms(buckets, "apiserver_admission_controller_admission_duration_seconds",
		"[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
		"name", "operation", "rejected", "type")
}

// mutate runs the steps that may change the object.
func (s *Server) mutate(ctx context.Context, a *admission.Request) error {
	began, op := time.Now(), admissionOperation(a.Verb)
	took, err := s.steps.run(ctx, s.metrics, a, admit, op, began, 0)
	if err == nil && a.Again() {
		took, err = s.steps.run(ctx, s.metrics, a, admit, op, began, took)
	}
	s.steps.done(s.metrics, a, admit, op, err, took)
	return err
}

// validate runs the steps that judge the object.
func (s *Server) validate(ctx context.Context, a *admission.Request) error {
	began, op := time.Now(), admissionOperation(a.Verb)
	took, err := s.steps.run(ctx, s.metrics, a, validating, op, began, 0)
	s.steps.done(s.metrics, a, validating, op, err, took)
	return err
}

// steps are those of admission, in order, with their figures.
type steps struct {
	list    []admission.Step
	figures []pluginFigures
	all     pluginFigures
}

func newSteps(list []admission.Step) steps {
	return steps{list: list, figures: make([]pluginFigures, len(list))}
}

// run runs a phase that began at a time, of which it ran for a while before, and returns how long it ran then.
func (s *steps) run(ctx context.Context, m *metrics, a *admission.Request, phase, op int, began time.Time, before time.Duration) (time.Duration, error) {
	for i := range s.list {
		f := s.list[i].Mutate
		if phase == validating {
			f = s.list[i].Validate
		}
		if f == nil {
			continue
		}
		err := f(ctx, a)
		now := time.Since(began)
		s.figures[i].of(phase, op, err != nil, m.plugins, s.list[i].Name).Took(now - before)
		if before = now; err != nil {
			return now, err
		}
	}
	return before, nil
}

func (s *steps) done(m *metrics, a *admission.Request, phase, op int, err error, took time.Duration) {
	s.all.of(phase, op, err != nil, m.admission).Took(took)
	if a.Spent != nil {
		a.Spent.All.Add(int64(took))
	}
}
