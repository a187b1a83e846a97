// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// cronNameMax leaves room for what is appended to make the name of a job.
const cronNameMax = validation.DNS1035LabelMaxLength - 11

// CronJobs make jobs at the times of a schedule.
var CronJobs = resource.WithList(resource.Define(resource.Definition[batchv1.CronJob]{
	Group: "batch", Version: "v1", Kind: "CronJob", Resource: "cronjobs",
	ShortNames:  []string{"cj"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "cronjobs",
	Default:     defaultCronJob,
	PrepareCreate: func(c *batchv1.CronJob) {
		c.Status, c.Generation = batchv1.CronJobStatus{}, 1
	},
	PrepareUpdate: func(c, old *batchv1.CronJob) {
		c.Status, c.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(c.Spec, old.Spec) {
			c.Generation++
		}
	},
	ValidateCreate: func(c *batchv1.CronJob) field.ErrorList {
		problems := validateCronJob(c, nil)
		if len(c.Name) > cronNameMax {
			problems = append(problems, field.Invalid(field.NewPath("metadata", "name"), c.Name, fmt.Sprintf("must be no more than %d characters", cronNameMax)))
		}
		return problems
	},
	ValidateUpdate: validateCronJob,
	WarningsCreate: func(c *batchv1.CronJob) []string { return core.NameWarnings(c.Name) },
	Warnings:       cronJobWarnings,
	WarningsUpdate: func(c, old *batchv1.CronJob) []string {
		if c.Generation == old.Generation {
			return nil
		}
		return cronJobWarnings(c)
	},
	Columns: cronJobColumns(),
	Subresources: resource.Subresources[batchv1.CronJob]{
		Status: &resource.Status[batchv1.CronJob]{Prepare: func(obj, old *batchv1.CronJob) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}},
	},
}), func() runtime.Object { return new(batchv1.CronJobList) })

func cronJobColumns() []resource.Column[batchv1.CronJob] {
	doc := batchv1.CronJobSpec{}.SwaggerDoc()
	status := batchv1.CronJobStatus{}.SwaggerDoc()
	return []resource.Column[batchv1.CronJob]{
		{Name: "Schedule", Description: doc["schedule"], Value: func(c *batchv1.CronJob, _ time.Time) any { return c.Spec.Schedule }},
		{Name: "Timezone", Description: doc["timeZone"], Value: func(c *batchv1.CronJob, _ time.Time) any {
			if c.Spec.TimeZone == nil {
				return "<none>"
			}
			return *c.Spec.TimeZone
		}},
		{Name: "Suspend", Type: "boolean", Description: doc["suspend"], Value: func(c *batchv1.CronJob, _ time.Time) any {
			switch {
			case c.Spec.Suspend == nil:
				return "<unset>"
			case *c.Spec.Suspend:
				return "True"
			}
			return "False"
		}},
		{Name: "Active", Type: "integer", Description: status["active"], Value: func(c *batchv1.CronJob, _ time.Time) any { return int64(len(c.Status.Active)) }},
		{Name: "Last Schedule", Description: status["lastScheduleTime"], Value: func(c *batchv1.CronJob, now time.Time) any {
			if c.Status.LastScheduleTime == nil {
				return "<none>"
			}
			return core.Age(*c.Status.LastScheduleTime, now)
		}},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(c *batchv1.CronJob, now time.Time) any { return core.Age(c.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(c *batchv1.CronJob, _ time.Time) any {
				return core.ContainerNames(&c.Spec.JobTemplate.Spec.Template.Spec)
			}},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(c *batchv1.CronJob, _ time.Time) any {
				return core.ContainerImages(&c.Spec.JobTemplate.Spec.Template.Spec)
			}},
		{Name: "Selector", Wide: true, Description: batchv1.JobSpec{}.SwaggerDoc()["selector"],
			Value: func(c *batchv1.CronJob, _ time.Time) any {
				return metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector)
			}},
	}
}

func defaultCronJob(c *batchv1.CronJob) {
	s := &c.Spec
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	orDefault(&s.Suspend, false)
	orDefault(&s.SuccessfulJobsHistoryLimit, 3)
	orDefault(&s.FailedJobsHistoryLimit, 1)
	defaultFailurePolicy(s.JobTemplate.Spec.PodFailurePolicy)
	core.DefaultPodTemplate(&s.JobTemplate.Spec.Template)
}

// validateCronJob checks a cron job; what it already had in its schedule and time zone it may keep.
func validateCronJob(c, old *batchv1.CronJob) field.ErrorList {
	s, at := &c.Spec, field.NewPath("spec")
	var problems field.ErrorList
	if s.Schedule == "" {
		problems = append(problems, field.Required(at.Child("schedule"), ""))
	}
	problems = append(problems, validateCronSchedule(c, old, at)...)
	problems = append(problems, nonNegative64(s.StartingDeadlineSeconds, at.Child("startingDeadlineSeconds"))...)
	if old == nil || !equality.Semantic.DeepEqual(s.TimeZone, old.Spec.TimeZone) {
		problems = append(problems, validateTimeZone(s.TimeZone, at.Child("timeZone"))...)
	}
	known := []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}
	switch {
	case s.ConcurrencyPolicy == "":
		problems = append(problems, field.Required(at.Child("concurrencyPolicy"), ""))
	case !slices.Contains(known, s.ConcurrencyPolicy):
		problems = append(problems, field.NotSupported(at.Child("concurrencyPolicy"), s.ConcurrencyPolicy, known))
	}
	problems = append(problems, validateJobTemplate(&s.JobTemplate, at.Child("jobTemplate"))...)
	problems = append(problems, nonNegative32(s.SuccessfulJobsHistoryLimit, at.Child("successfulJobsHistoryLimit"))...)
	return append(problems, nonNegative32(s.FailedJobsHistoryLimit, at.Child("failedJobsHistoryLimit"))...)
}

func validateJobTemplate(t *batchv1.JobTemplateSpec, at *field.Path) field.ErrorList {
	problems := validateJobSpec(&t.Spec, at.Child("spec"))
	if t.Spec.Selector != nil {
		problems = append(problems, field.Invalid(at.Child("spec", "selector"), t.Spec.Selector, "`selector` will be auto-generated"))
	}
	if t.Spec.ManualSelector != nil && *t.Spec.ManualSelector {
		problems = append(problems, field.NotSupported(at.Child("spec", "manualSelector"), *t.Spec.ManualSelector, []string{"nil", "false"}))
	}
	return problems
}

// validateCronSchedule checks a schedule that is new: time zones belong into their own field.
func validateCronSchedule(c, old *batchv1.CronJob, at *field.Path) (problems field.ErrorList) {
	text := c.Spec.Schedule
	if text == "" || old != nil && old.Spec.Schedule == text {
		return nil
	}
	at = at.Child("schedule")
	if strings.Contains(text, "TZ") {
		if zoned := strings.HasPrefix(text, "TZ=") || strings.HasPrefix(text, "CRON_TZ="); zoned && !strings.Contains(text, " ") { // a slip of Kubernetes' parser that clients see
			problems = append(problems, field.Invalid(at, text, "invalid schedule format: runtime error: slice bounds out of range [:-1]"))
		}
		return append(problems, field.Invalid(at, text, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	}
	if _, err := ParseSchedule(text); err != nil {
		return field.ErrorList{field.Invalid(at, text, err.Error())}
	}
	return nil
}

func validateTimeZone(zone *string, at *field.Path) (problems field.ErrorList) {
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return field.ErrorList{field.Invalid(at, *zone, "timeZone must be nil or non-empty string")}
	}
	if strings.EqualFold(*zone, "Local") {
		problems = append(problems, field.Invalid(at, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		problems = append(problems, field.Invalid(at, *zone, "unknown time zone "+*zone))
	}
	return problems
}

func cronJobWarnings(c *batchv1.CronJob) []string {
	at := field.NewPath("spec", "jobTemplate", "spec")
	out := specWarnings(&c.Spec.JobTemplate.Spec, at)
	return append(out, core.TemplateWarnings(at.Child("template"), &c.Spec.JobTemplate.Spec.Template)...)
}
