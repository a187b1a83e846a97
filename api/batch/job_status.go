// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// validateJobStatus checks what the controller of a job writes.
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	s, at := &j.Status, field.NewPath("status")
	var problems field.ErrorList
	for _, f := range []struct {
		name  string
		value int32
	}{{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed}} {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(f.value), at.Child(f.name))...)
	}
	problems = append(problems, nonNegative32(s.Ready, at.Child("ready"))...)
	problems = append(problems, nonNegative32(s.Terminating, at.Child("terminating"))...)
	problems = append(problems, validateUncounted(s.UncountedTerminatedPods, at.Child("uncountedTerminatedPods"))...)
	problems = append(problems, validateOutcome(s, &old.Status, at)...)
	problems = append(problems, validateFinished(s, at)...)
	problems = append(problems, validateIndexes(j, &old.Status, at)...)
	if s.Ready != nil && *s.Ready > s.Active && s.Active >= 0 {
		problems = append(problems, field.Invalid(at.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	return append(problems, validateStatusChange(j, &old.Status, at)...)
}

func validateUncounted(u *batchv1.UncountedTerminatedPods, at *field.Path) (problems field.ErrorList) {
	if u == nil {
		return nil
	}
	seen := map[types.UID]bool{}
	check := func(list []types.UID, all *field.Path) {
		for i, uid := range list {
			switch {
			case uid == "":
				problems = append(problems, field.Invalid(all.Index(i), uid, "must not be empty"))
			case seen[uid]:
				problems = append(problems, field.Duplicate(all.Index(i), uid))
			}
			seen[uid] = true
		}
	}
	check(u.Succeeded, at.Child("succeeded"))
	check(u.Failed, at.Child("failed"))
	return problems
}

// validateOutcome checks that the conditions of a job agree with each other and with the time of its completion.
func validateOutcome(s, old *batchv1.JobStatus, at *field.Path) (problems field.ErrorList) {
	has := func(t batchv1.JobConditionType) bool { return conditionOf(s.Conditions, t) }
	complete, failed := has(batchv1.JobComplete), has(batchv1.JobFailed)
	failing, met := has(batchv1.JobFailureTarget), has(batchv1.JobSuccessCriteriaMet)
	refuse := func(is bool, text string) {
		if is {
			problems = append(problems, field.Invalid(at.Child("conditions"), field.OmitValueType{}, text))
		}
	}
	refuse(complete && failed, "cannot set Complete=True and Failed=true conditions")
	refuse(complete && failing, "cannot set Complete=True and FailureTarget=true conditions")
	done := at.Child("completionTime")
	switch {
	case complete && s.CompletionTime == nil:
		problems = append(problems, field.Required(done, "completionTime is required for Complete jobs"))
	case !complete && s.CompletionTime != nil:
		problems = append(problems, field.Invalid(done, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	}
	refuse(failed && !failing && !conditionOf(old.Conditions, batchv1.JobFailed), "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	refuse(met && failing, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	refuse(complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	if s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		problems = append(problems, field.Invalid(done, s.CompletionTime, "must be equal to or after `startTime`"))
	}
	return problems
}

// validateFinished checks that a job that is over has no pods left.
func validateFinished(s *batchv1.JobStatus, at *field.Path) (problems field.ErrorList) {
	if !conditionOf(s.Conditions, batchv1.JobComplete) && !conditionOf(s.Conditions, batchv1.JobFailed) {
		return nil
	}
	if s.StartTime == nil {
		problems = append(problems, field.Required(at.Child("startTime"), "startTime is required for finished job"))
	}
	if s.Active > 0 {
		problems = append(problems, field.Invalid(at.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.Terminating != nil && *s.Terminating > 0 {
		problems = append(problems, field.Invalid(at.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		problems = append(problems, field.Invalid(at.Child("uncountedTerminatedPods"), core.Shown(u), "must be empty for finished job"))
	}
	return problems
}

// validateIndexes checks lists of indexes that changed: those of before may be of a time when there were more.
func validateIndexes(j *batchv1.Job, old *batchv1.JobStatus, at *field.Path) (problems field.ErrorList) {
	s := &j.Status
	if s.CompletedIndexes == old.CompletedIndexes && equality.Semantic.DeepEqual(s.FailedIndexes, old.FailedIndexes) {
		return nil
	}
	completed, failed := at.Child("completedIndexes"), at.Child("failedIndexes")
	readable := true
	read := func(at *field.Path, text string) {
		if _, err := countIndexes(text, *j.Spec.Completions); err != nil {
			readable = false
			problems = append(problems, field.Invalid(at, text, fmt.Sprintf("error parsing %s: %v", strings.TrimPrefix(at.String(), "status."), err)))
		}
	}
	if j.Spec.Completions != nil {
		read(completed, s.CompletedIndexes)
	}
	if s.CompletedIndexes != "" && !isIndexed(&j.Spec) {
		problems = append(problems, field.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if s.FailedIndexes == nil {
		return problems
	}
	if j.Spec.BackoffLimitPerIndex == nil {
		problems = append(problems, field.Invalid(failed, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if j.Spec.Completions == nil {
		return problems
	}
	if j.Spec.BackoffLimitPerIndex != nil {
		read(failed, *s.FailedIndexes)
	} else if _, err := countIndexes(*s.FailedIndexes, *j.Spec.Completions); err != nil {
		readable = false
	}
	if !readable {
		return problems
	}
	if i, both := overlap(s.CompletedIndexes, *s.FailedIndexes); both {
		problems = append(problems, field.Invalid(failed, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i)))
	}
	return problems
}

// overlap finds the first index that two well-formed lists such as 1,3-5 share.
func overlap(a, b string) (int, bool) {
	x, y := intervals(a), intervals(b)
	for i, k := 0, 0; i < len(x) && k < len(y); {
		from, to := max(x[i][0], y[k][0]), min(x[i][1], y[k][1])
		switch {
		case from <= to:
			return from, true
		case x[i][1] < y[k][1]:
			i++
		default:
			k++
		}
	}
	return 0, false
}

func intervals(text string) (out [][2]int) {
	if text == "" {
		return nil
	}
	for part := range strings.SplitSeq(text, ",") {
		var from, to int
		if n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); n == 1 {
			to = from
		}
		out = append(out, [2]int{from, to})
	}
	return out
}

// validateStatusChange refuses to take back what is final.
func validateStatusChange(j *batchv1.Job, old *batchv1.JobStatus, at *field.Path) (problems field.ErrorList) {
	s := &j.Status
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if !conditionOf(old.Conditions, t) || conditionOf(s.Conditions, t) {
			continue
		}
		what := "terminal " + string(t)
		if t == batchv1.JobSuccessCriteriaMet {
			what = string(t)
		}
		problems = append(problems, field.Invalid(at.Child("conditions"), field.OmitValueType{}, fmt.Sprintf("cannot disable the %s=True condition", what)))
	}
	if s.Failed < old.Failed {
		problems = append(problems, field.Invalid(at.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	if s.Succeeded < old.Succeeded && !isElastic(&j.Spec) {
		problems = append(problems, field.Invalid(at.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	suspended := j.Spec.Suspend != nil && *j.Spec.Suspend
	if old.StartTime != nil && !suspended && !equality.Semantic.DeepEqual(s.StartTime, old.StartTime) {
		problems = append(problems, field.Invalid(at.Child("startTime"), s.StartTime, "field is immutable for unsuspended job once set"))
	}
	if old.CompletionTime != nil && s.CompletionTime != nil && conditionOf(s.Conditions, batchv1.JobComplete) && !s.CompletionTime.Equal(old.CompletionTime) {
		problems = append(problems, field.Invalid(at.Child("completionTime"), s.CompletionTime, apivalidation.FieldImmutableErrorMsg))
	}
	return problems
}

// isElastic tells whether a job may get fewer indexes than have completed: as many run as there are.
func isElastic(s *batchv1.JobSpec) bool {
	return isIndexed(s) && s.Completions != nil && s.Parallelism != nil && *s.Completions == *s.Parallelism
}

func conditionOf(all []batchv1.JobCondition, t batchv1.JobConditionType) bool {
	for _, c := range all {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
