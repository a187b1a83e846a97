// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
)

// Limits of jobs. What has a soft one is still tracked in a bounded text.
const (
	indexedParallelismMax = 100_000
	managedByMax          = 63
	completionsSoftMax    = 100_000
	parallelismSoftMax    = 10_000
	backoffPerIndexMax    = 100_000
	failurePolicyRulesMax = 20
	exitCodesMax          = 255
	podConditionsMax      = 20
	successPolicyRulesMax = 20
	succeededIndexesMax   = 64 * 1024
)

func nonNegative32(v *int32, at *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(int64(*v), at)
}

func nonNegative64(v *int64, at *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(*v, at)
}

func isIndexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// validateNewJob has all rules for new jobs, in the order of Kubernetes' causes.
func validateNewJob(j *batchv1.Job) field.ErrorList {
	problems := validateGeneratedSelector(j)
	problems = append(problems, validateSelectedJob(&j.Spec, field.NewPath("spec"))...)
	s := &j.Spec
	if isIndexed(s) && s.Completions != nil && *s.Completions > 0 {
		host := fmt.Sprintf("%s-%d", j.Name, *s.Completions-1)
		if len(validation.IsDNS1123Label(host)) > 0 {
			problems = append(problems, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+host))
		}
	}
	return problems
}

// validateGeneratedSelector checks that the labels that tie pods to the job are what the server would have made them.
func validateGeneratedSelector(j *batchv1.Job) (problems field.ErrorList) {
	s := &j.Spec
	if s.ManualSelector != nil && *s.ManualSelector || s.Selector == nil {
		return nil
	}
	at := field.NewPath("spec", "template", "metadata")
	want := podLabels(j)
	for _, key := range []string{oldControllerUID, oldJobName, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		have, set := s.Template.Labels[key]
		switch {
		case !set:
			problems = append(problems, field.Required(at.Child("labels").Key(key), fmt.Sprintf("must be '%s'", want[key])))
		case have != want[key]:
			problems = append(problems, field.Invalid(at.Child("labels").Key(key), s.Template.Labels, fmt.Sprintf("must be '%s'", want[key])))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(want)) {
		problems = append(problems, field.Invalid(field.NewPath("spec", "selector"), s.Selector, "`selector` not auto-generated"))
	}
	return problems
}

func validateSelectedJob(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	problems := validateJobSpec(s, at)
	if s.Selector == nil {
		problems = append(problems, field.Required(at.Child("selector"), ""))
	} else {
		problems = append(problems, metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		problems = append(problems, field.Invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return problems
}

// validateJobSpec checks what jobs and templates of jobs share.
func validateJobSpec(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	problems := nonNegative32(s.Parallelism, at.Child("parallelism"))
	problems = append(problems, nonNegative32(s.Completions, at.Child("completions"))...)
	problems = append(problems, nonNegative64(s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))...)
	problems = append(problems, nonNegative32(s.BackoffLimit, at.Child("backoffLimit"))...)
	problems = append(problems, nonNegative32(s.TTLSecondsAfterFinished, at.Child("ttlSecondsAfterFinished"))...)
	problems = append(problems, nonNegative32(s.BackoffLimitPerIndex, at.Child("backoffLimitPerIndex"))...)
	problems = append(problems, nonNegative32(s.MaxFailedIndexes, at.Child("maxFailedIndexes"))...)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		problems = append(problems, field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		problems = append(problems, validation.IsDomainPrefixedPath(at.Child("managedBy"), *s.ManagedBy)...)
		if n := len(*s.ManagedBy); n > managedByMax {
			problems = append(problems, field.TooLong(at.Child("managedBy"), *s.ManagedBy, managedByMax))
		}
	}
	problems = append(problems, validateCompletionMode(s, at)...)
	if s.PodFailurePolicy != nil {
		problems = append(problems, validateFailurePolicy(s, at.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		problems = append(problems, validateSuccessPolicy(s, at.Child("successPolicy"))...)
	}
	if p := s.PodReplacementPolicy; p != nil {
		problems = append(problems, validateReplacementPolicy(*p, s.PodFailurePolicy != nil, at.Child("podReplacementPolicy"))...)
	}
	problems = append(problems, core.ValidateTemplate(&s.Template, at.Child("template"))...)
	restart, restartAt := s.Template.Spec.RestartPolicy, at.Child("template", "spec", "restartPolicy")
	if restart == "" || restart == corev1.RestartPolicyAlways {
		problems = append(problems, field.Required(restartAt, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)))
	} else if restart != corev1.RestartPolicyOnFailure && restart != corev1.RestartPolicyNever {
		problems = append(problems, field.NotSupported(restartAt, restart, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	} else if s.PodFailurePolicy != nil && restart != corev1.RestartPolicyNever {
		problems = append(problems, field.Invalid(restartAt, restart, `only "Never" is supported when podFailurePolicy is specified`))
	}
	return problems
}

func validateCompletionMode(s *batchv1.JobSpec, at *field.Path) (problems field.ErrorList) {
	if s.CompletionMode != nil && *s.CompletionMode != batchv1.NonIndexedCompletion && *s.CompletionMode != batchv1.IndexedCompletion {
		return append(problems, field.NotSupported(at.Child("completionMode"), *s.CompletionMode,
			[]batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	if !isIndexed(s) {
		if s.BackoffLimitPerIndex != nil {
			problems = append(problems, field.Invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			problems = append(problems, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return problems
	}
	if s.Completions == nil {
		problems = append(problems, field.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	if s.Parallelism != nil && *s.Parallelism > indexedParallelismMax {
		problems = append(problems, field.Invalid(at.Child("parallelism"), *s.Parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is %s", indexedParallelismMax, batchv1.IndexedCompletion)))
	}
	if s.Completions != nil && s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		problems = append(problems, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	if s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > backoffPerIndexMax {
		problems = append(problems, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", backoffPerIndexMax)))
	}
	if s.Completions == nil || s.BackoffLimitPerIndex == nil || *s.Completions <= completionsSoftMax {
		return problems
	}
	if s.MaxFailedIndexes == nil {
		problems = append(problems, field.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", completionsSoftMax)))
	}
	if s.Parallelism != nil && *s.Parallelism > parallelismSoftMax {
		problems = append(problems, field.Invalid(at.Child("parallelism"), *s.Parallelism,
			fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", parallelismSoftMax, completionsSoftMax)))
	}
	if s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > parallelismSoftMax {
		problems = append(problems, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes,
			fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", parallelismSoftMax, completionsSoftMax)))
	}
	return problems
}

func validateReplacementPolicy(p batchv1.PodReplacementPolicy, failurePolicy bool, at *field.Path) field.ErrorList {
	known := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if failurePolicy {
		known = known[:1]
	}
	if slices.Contains(known, p) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, p, known)}
}

func validateFailurePolicy(s *batchv1.JobSpec, at *field.Path) (problems field.ErrorList) {
	rules := s.PodFailurePolicy.Rules
	all := at.Child("rules")
	if len(rules) > failurePolicyRulesMax {
		return field.ErrorList{field.TooMany(all, len(rules), failurePolicyRulesMax)}
	}
	var names []string
	for _, c := range s.Template.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range s.Template.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for i := range rules {
		problems = append(problems, validateFailureRule(s, &rules[i], names, all.Index(i))...)
	}
	return problems
}

func validateFailureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, names []string, at *field.Path) (problems field.ErrorList) {
	known := []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	switch {
	case r.Action == "":
		problems = append(problems, field.Required(at.Child("action"), fmt.Sprintf("valid values: %q", known)))
	case r.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil:
		problems = append(problems, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	case !slices.Contains(known, r.Action):
		problems = append(problems, field.NotSupported(at.Child("action"), r.Action, known))
	}
	if r.OnExitCodes != nil {
		problems = append(problems, validateExitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
	}
	if len(r.OnPodConditions) > 0 {
		problems = append(problems, validatePodConditions(r.OnPodConditions, at.Child("onPodConditions"))...)
	}
	switch {
	case r.OnExitCodes != nil && len(r.OnPodConditions) > 0:
		problems = append(problems, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case r.OnExitCodes == nil && len(r.OnPodConditions) == 0:
		problems = append(problems, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return problems
}

func validatePodConditions(list []batchv1.PodFailurePolicyOnPodConditionsPattern, all *field.Path) (problems field.ErrorList) {
	if len(list) > podConditionsMax {
		return field.ErrorList{field.TooMany(all, len(list), podConditionsMax)}
	}
	for i, c := range list {
		at := all.Index(i)
		for _, m := range validation.IsQualifiedName(string(c.Type)) {
			problems = append(problems, field.Invalid(at.Child("type"), c.Type, m))
		}
		known := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch {
		case c.Status == "":
			problems = append(problems, field.Required(at.Child("status"), fmt.Sprintf("valid values: %q", known)))
		case !slices.Contains(known, c.Status):
			problems = append(problems, field.NotSupported(at.Child("status"), c.Status, known))
		}
	}
	return problems
}

func validateExitCodes(c *batchv1.PodFailurePolicyOnExitCodesRequirement, names []string, at *field.Path) (problems field.ErrorList) {
	known := []batchv1.PodFailurePolicyOnExitCodesOperator{batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn}
	switch {
	case c.Operator == "":
		problems = append(problems, field.Required(at.Child("operator"), fmt.Sprintf("valid values: %q", known)))
	case !slices.Contains(known, c.Operator):
		problems = append(problems, field.NotSupported(at.Child("operator"), c.Operator, known))
	}
	if c.ContainerName != nil && !slices.Contains(names, *c.ContainerName) {
		problems = append(problems, field.Invalid(at.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	switch {
	case len(c.Values) == 0:
		return append(problems, field.Invalid(values, c.Values, "at least one value is required"))
	case len(c.Values) > exitCodesMax:
		return append(problems, field.TooMany(values, len(c.Values), exitCodesMax))
	}
	seen := map[int32]bool{}
	for i, v := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			problems = append(problems, field.Invalid(values.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen[v] {
			problems = append(problems, field.Duplicate(values.Index(i), v))
		}
		seen[v] = true
	}
	if !slices.IsSorted(c.Values) {
		problems = append(problems, field.Invalid(values, c.Values, "must be ordered"))
	}
	return problems
}

func validateSuccessPolicy(s *batchv1.JobSpec, at *field.Path) (problems field.ErrorList) {
	if !isIndexed(s) {
		return field.ErrorList{field.Invalid(at, core.Shown(s.SuccessPolicy), "requires indexed completion mode")}
	}
	rules, all := s.SuccessPolicy.Rules, at.Child("rules")
	if len(rules) == 0 {
		return field.ErrorList{field.Required(all, "at least one rules must be specified when the successPolicy is specified")}
	}
	if len(rules) > successPolicyRulesMax {
		problems = append(problems, field.TooMany(all, len(rules), successPolicyRulesMax))
	}
	for i, r := range rules {
		problems = append(problems, validateSuccessRule(s, &r, all.Index(i))...)
	}
	return problems
}

func validateSuccessRule(s *batchv1.JobSpec, r *batchv1.SuccessPolicyRule, at *field.Path) (problems field.ErrorList) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		problems = append(problems, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	total := int32(0)
	if s.Completions != nil {
		total = *s.Completions
	}
	listed := int32(0)
	if r.SucceededIndexes != nil {
		at, text := at.Child("succeededIndexes"), *r.SucceededIndexes
		if len(text) > succeededIndexesMax {
			problems = append(problems, field.TooLong(at, text, succeededIndexesMax))
		}
		var err error
		if listed, err = countIndexes(text, total); err != nil {
			problems = append(problems, field.Invalid(at, text, fmt.Sprintf("error parsing succeededIndexes: %v", err)))
		}
	}
	if r.SucceededCount != nil {
		at, n := at.Child("succeededCount"), *r.SucceededCount
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(n), at)...)
		if n > total {
			problems = append(problems, field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", total)))
		}
		if r.SucceededIndexes != nil && n > listed {
			problems = append(problems, field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed)))
		}
	}
	return problems
}

// countIndexes reads a list of indexes such as 1,3-5,7 below total, in order, and counts them.
func countIndexes(text string, total int32) (n int32, err error) {
	if text == "" {
		return 0, nil
	}
	last := -1
	for part := range strings.SplitSeq(text, ",") {
		limits := strings.Split(part, "-")
		if len(limits) > 2 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		from, err := readIndex(limits[0], last, total)
		if err != nil {
			return 0, err
		}
		to := from
		if len(limits) == 2 {
			if to, err = readIndex(limits[1], from, total); err != nil {
				return 0, err
			}
		}
		last = to
		n += int32(to-from) + 1
	}
	return n, nil
}

func readIndex(text string, last int, total int32) (int, error) {
	i, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	}
	if i >= int(total) {
		return 0, fmt.Errorf("too large index: %q", text)
	}
	if i <= last {
		return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, i)
	}
	return i, nil
}
