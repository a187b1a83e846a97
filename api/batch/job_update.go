// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	s, was, at := &j.Spec, &old.Spec, field.NewPath("spec")
	problems := validateGeneratedSelector(j)
	for range 2 { // Kubernetes' causes have these twice
		problems = append(problems, validateSelectedJob(s, at)...)
	}
	problems = append(problems, validateCompletionsUpdate(s, was, at)...)
	problems = append(problems, apivalidation.ValidateImmutableField(s.Selector, was.Selector, at.Child("selector"))...)
	problems = append(problems, validateTemplateUpdate(j, old, at)...)
	problems = append(problems, apivalidation.ValidateImmutableField(s.CompletionMode, was.CompletionMode, at.Child("completionMode"))...)
	problems = append(problems, immutableShown(s.PodFailurePolicy, was.PodFailurePolicy, at.Child("podFailurePolicy"))...)
	problems = append(problems, apivalidation.ValidateImmutableField(s.BackoffLimitPerIndex, was.BackoffLimitPerIndex, at.Child("backoffLimitPerIndex"))...)
	problems = append(problems, apivalidation.ValidateImmutableField(s.ManagedBy, was.ManagedBy, at.Child("managedBy"))...)
	return append(problems, immutableShown(s.SuccessPolicy, was.SuccessPolicy, at.Child("successPolicy"))...)
}

func immutableShown[T any](value, old *T, at *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(value, old) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, core.Shown(value), apivalidation.FieldImmutableErrorMsg)}
}

// validateCompletionsUpdate lets indexed jobs grow and shrink: completions change only together with parallelism.
func validateCompletionsUpdate(s, was *batchv1.JobSpec, at *field.Path) field.ErrorList {
	at = at.Child("completions")
	if !isIndexed(s) {
		return apivalidation.ValidateImmutableField(s.Completions, was.Completions, at)
	}
	if s.Completions == nil || s.Parallelism == nil || equality.Semantic.DeepEqual(s.Completions, was.Completions) || *s.Completions == *s.Parallelism {
		return nil // or a problem found before
	}
	return field.ErrorList{field.Invalid(at, s.Completions, "can only be modified in tandem with spec.parallelism")}
}

// validateTemplateUpdate lets the scheduling directives and resources of the pods change while none of them runs.
func validateTemplateUpdate(j, old *batchv1.Job, at *field.Path) field.ErrorList {
	now, was := &j.Spec.Template, &old.Spec.Template
	if !mayChangeTemplate(old) {
		return immutableShown(now, was, at.Child("template"))
	}
	spec := now.Spec.DeepCopy() // with what may change as it was
	spec.NodeSelector, spec.Tolerations, spec.SchedulingGates = was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates
	spec.Affinity = sameNodeAffinity(spec.Affinity, was.Spec.Affinity)
	sameResources(spec.Containers, was.Spec.Containers)
	sameResources(spec.InitContainers, was.Spec.InitContainers)
	if equality.Semantic.DeepEqual(spec, &was.Spec) {
		return nil
	}
	return field.ErrorList{field.Invalid(at.Child("template", "spec"), core.Shown(&now.Spec), apivalidation.FieldImmutableErrorMsg)}
}

// sameNodeAffinity is an affinity with that to nodes as another one has it.
func sameNodeAffinity(a, was *corev1.Affinity) *corev1.Affinity {
	out := corev1.Affinity{}
	if a != nil {
		out = *a
	}
	out.NodeAffinity = nil
	if was != nil {
		out.NodeAffinity = was.NodeAffinity
	}
	if was == nil && out == (corev1.Affinity{}) {
		return nil
	}
	return &out
}

func sameResources(containers, was []corev1.Container) {
	if len(containers) != len(was) {
		return
	}
	for i := range containers {
		containers[i].Resources = was[i].Resources
	}
}

// mayChangeTemplate says that a job is suspended and none of its pods runs.
func mayChangeTemplate(old *batchv1.Job) bool {
	suspended := old.Spec.Suspend != nil && *old.Spec.Suspend
	return suspended && (old.Status.StartTime == nil || conditionOf(old.Status.Conditions, batchv1.JobSuspended))
}
