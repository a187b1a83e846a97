// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"math"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Labels that jobs had before they got a domain.
const (
	oldControllerUID = "controller-uid"
	oldJobName       = "job-name"
)

// Jobs run pods until enough of them succeeded.
var Jobs = resource.WithList(resource.Define(resource.Definition[batchv1.Job]{
	Group: "batch", Version: "v1", Kind: "Job", Resource: "jobs",
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "jobs",
	Default:     defaultJob,
	PrepareCreate: func(j *batchv1.Job) {
		j.Status, j.Generation = batchv1.JobStatus{}, 1
		generateSelector(j)
	},
	PrepareUpdate: func(j, old *batchv1.Job) {
		j.Status, j.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(j.Spec, old.Spec) {
			j.Generation++
		}
	},
	WarningsCreate: func(j *batchv1.Job) []string { return core.NameWarnings(j.Name) },
	ValidateCreate: validateNewJob,
	ValidateUpdate: validateJobUpdate,
	Warnings:       jobWarnings,
	WarningsUpdate: func(j, old *batchv1.Job) []string {
		if j.Generation == old.Generation {
			return nil
		}
		return jobWarnings(j)
	},
	DefaultPropagation: metav1.DeletePropagationOrphan,
	Columns: []resource.Column[batchv1.Job]{
		{Name: "Status", Description: "Status of the job.", Value: func(j *batchv1.Job, _ time.Time) any { return jobState(j) }},
		{Name: "Completions", Description: batchv1.JobStatus{}.SwaggerDoc()["succeeded"],
			Value: func(j *batchv1.Job, _ time.Time) any { return jobCompletions(j) }},
		{Name: "Duration", Description: "Time required to complete the job.", Value: jobDuration},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(j *batchv1.Job, now time.Time) any { return core.Age(j.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(j *batchv1.Job, _ time.Time) any { return core.ContainerNames(&j.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(j *batchv1.Job, _ time.Time) any { return core.ContainerImages(&j.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: batchv1.JobSpec{}.SwaggerDoc()["selector"],
			Value: func(j *batchv1.Job, _ time.Time) any { return metav1.FormatLabelSelector(j.Spec.Selector) }},
	},
	Fields: func(j *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": fmt.Sprint(j.Status.Succeeded)}
	},
	FieldNames: []string{"status.successful"},
	Subresources: resource.Subresources[batchv1.Job]{
		Status: &resource.Status[batchv1.Job]{Prepare: func(obj, old *batchv1.Job) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: validateJobStatus},
	},
}), func() runtime.Object { return new(batchv1.JobList) })

func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		orDefault(&s.Completions, 1)
	}
	orDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		orDefault(&s.BackoffLimit, math.MaxInt32)
	}
	orDefault(&s.BackoffLimit, 6)
	orDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	orDefault(&s.Suspend, false)
	orDefault(&s.ManualSelector, false)
	if s.PodFailurePolicy != nil {
		orDefault(&s.PodReplacementPolicy, batchv1.Failed)
	}
	orDefault(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultFailurePolicy(s.PodFailurePolicy)
	core.DefaultPodTemplate(&s.Template)
	defaultJobLabels(j)
}

// defaultJobLabels gives a job without labels those of its pods: the very map, so that generated ones show in both.
func defaultJobLabels(j *batchv1.Job) {
	if len(j.Labels) == 0 && len(j.Spec.Template.Labels) > 0 {
		j.Labels = j.Spec.Template.Labels
	}
}

func defaultFailurePolicy(p *batchv1.PodFailurePolicy) {
	if p == nil {
		return
	}
	if len(p.Rules) == 0 {
		p.Rules = nil // as storage gives it back
	}
	for i := range p.Rules {
		conditions := p.Rules[i].OnPodConditions
		for k := range conditions {
			if conditions[k].Status == "" {
				conditions[k].Status = corev1.ConditionTrue
			}
		}
	}
}

// generateSelector makes the pods of a job its own by its uid, unless the user selects them.
func generateSelector(j *batchv1.Job) {
	if j.Spec.ManualSelector != nil && *j.Spec.ManualSelector {
		return
	}
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	for key, value := range podLabels(j) {
		if _, set := j.Spec.Template.Labels[key]; !set {
			j.Spec.Template.Labels[key] = value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, set := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

// podLabels are what the pods of a job have for its selector.
func podLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		oldControllerUID: string(j.UID), batchv1.ControllerUidLabel: string(j.UID), oldJobName: j.Name, batchv1.JobNameLabel: j.Name,
	}
}

func jobState(j *batchv1.Job) string {
	switch {
	case hasCondition(j, batchv1.JobComplete):
		return "Complete"
	case hasCondition(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case hasCondition(j, batchv1.JobSuspended):
		return "Suspended"
	case hasCondition(j, batchv1.JobFailureTarget):
		return "FailureTarget"
	case hasCondition(j, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func hasCondition(j *batchv1.Job, t batchv1.JobConditionType) bool {
	return conditionOf(j.Status.Conditions, t)
}

func jobCompletions(j *batchv1.Job) string {
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case j.Spec.Parallelism != nil && *j.Spec.Parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, *j.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) any {
	switch start, end := j.Status.StartTime, j.Status.CompletionTime; {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(now.Sub(start.Time))
	default:
		return duration.HumanDuration(end.Sub(start.Time))
	}
}

func jobWarnings(j *batchv1.Job) []string {
	out := core.TemplateWarnings(field.NewPath("spec", "template"), &j.Spec.Template)
	return append(specWarnings(&j.Spec, field.NewPath("spec")), out...)
}

// specWarnings says what in the spec of a job will not work out.
func specWarnings(s *batchv1.JobSpec, at *field.Path) (out []string) {
	if s.CompletionMode == nil || *s.CompletionMode != batchv1.IndexedCompletion || s.Completions == nil {
		return nil
	}
	if *s.Completions > completionsSoftMax && *s.Parallelism > parallelismSoftMax {
		out = append(out, fmt.Sprintf("%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", at))
	}
	return out
}
