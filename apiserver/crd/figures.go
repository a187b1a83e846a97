// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package crd

import (
	"time"

	"knarr.dev/apiserver/measure"
)

// Figures are how long the rules of custom resources took, under Kubernetes' names. Nil counts nothing.
type Figures struct {
	compilations, evaluations *measure.Histogram
}

// NewFigures adds them to a set.
func NewFigures(set *measure.Set) *Figures {
	of := measure.Seconds(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
	return &Figures{
		compilations: set.Histograms(of, "apiserver_cel_compilation_duration_seconds", "[BETA] CEL compilation time in seconds.").With(),
		evaluations:  set.Histograms(of, "apiserver_cel_evaluation_duration_seconds", "[BETA] CEL evaluation time in seconds.").With(),
	}
}

func (f *Figures) compiled(since time.Time) {
	if f != nil {
		f.compilations.Took(time.Since(since))
	}
}

func (f *Figures) evaluated(since time.Time) {
	if f != nil {
		f.evaluations.Took(time.Since(since))
	}
}
