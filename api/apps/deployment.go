// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// Deployments roll out pods in versions, through ReplicaSets.
var Deployments = resource.WithList(resource.Define(resource.Definition[appsv1.Deployment]{
	Group: "apps", Version: "v1", Kind: "Deployment", Resource: "deployments",
	ShortNames:  []string{"deploy"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "deployments",
	Default:     defaultDeployment,
	PrepareCreate: func(d *appsv1.Deployment) {
		d.Generation, d.Status = 1, appsv1.DeploymentStatus{}
	},
	PrepareUpdate: func(d, old *appsv1.Deployment) {
		d.Status, d.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(d.Spec, old.Spec) || !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
			d.Generation++
		}
	},
	Validate:       validateDeployment,
	WarningsCreate: func(d *appsv1.Deployment) []string { return core.NameWarnings(d.Name) },
	Warnings:       func(d *appsv1.Deployment) []string { return templateWarnings(&d.Spec.Template) },
	WarningsUpdate: func(d, old *appsv1.Deployment) []string {
		if d.Generation == old.Generation {
			return nil
		}
		return templateWarnings(&d.Spec.Template)
	},
	ValidateUpdate: func(d, old *appsv1.Deployment) field.ErrorList {
		return apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
	},
	Columns: deploymentColumns(),
	Subresources: resource.Subresources[appsv1.Deployment]{
		Status: &resource.Status[appsv1.Deployment]{Prepare: func(obj, old *appsv1.Deployment) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: validateDeploymentStatus},
		Scale: &resource.Scale[appsv1.Deployment]{
			Path: ".spec.replicas",
			Get: func(d *appsv1.Deployment) (int32, int32, string) {
				return *d.Spec.Replicas, d.Status.Replicas, metav1.FormatLabelSelector(d.Spec.Selector)
			},
			Set: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
		},
	},
}), func() runtime.Object { return new(appsv1.DeploymentList) })

func deploymentColumns() []resource.Column[appsv1.Deployment] {
	status := appsv1.DeploymentStatus{}.SwaggerDoc()
	return []resource.Column[appsv1.Deployment]{
		{Name: "Ready", Description: "Number of the pod with ready state",
			Value: func(d *appsv1.Deployment, _ time.Time) any { return outOf(d.Status.ReadyReplicas, d.Spec.Replicas) }},
		{Name: "Up-to-date", Description: status["updatedReplicas"], Value: func(d *appsv1.Deployment, _ time.Time) any { return int64(d.Status.UpdatedReplicas) }},
		{Name: "Available", Description: status["availableReplicas"], Value: func(d *appsv1.Deployment, _ time.Time) any { return int64(d.Status.AvailableReplicas) }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(d *appsv1.Deployment, now time.Time) any { return core.Age(d.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(d *appsv1.Deployment, _ time.Time) any { return core.ContainerNames(&d.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(d *appsv1.Deployment, _ time.Time) any { return core.ContainerImages(&d.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: appsv1.DeploymentSpec{}.SwaggerDoc()["selector"],
			Value: func(d *appsv1.Deployment, _ time.Time) any { return metav1.FormatLabelSelector(d.Spec.Selector) }},
	}
}

func templateWarnings(t *corev1.PodTemplateSpec) []string {
	return core.TemplateWarnings(field.NewPath("spec", "template"), t)
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	orDefault(&s.Replicas, 1)
	orDefault(&s.RevisionHistoryLimit, 10)
	orDefault(&s.ProgressDeadlineSeconds, 600)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		orDefault(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		orDefault(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	core.DefaultPodTemplate(&s.Template)
}

func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	s, path := &d.Spec, field.NewPath("spec")
	problems := apivalidation.ValidateNonnegativeField(int64(*s.Replicas), path.Child("replicas"))
	problems = append(problems, core.ValidateSelector(s.Selector, path)...)
	problems = append(problems, validateSelected(s.Selector, &s.Template, path)...)
	problems = append(problems, validateStrategy(&s.Strategy, path.Child("strategy"))...)
	problems = append(problems, apivalidation.ValidateNonnegativeField(int64(s.MinReadySeconds), path.Child("minReadySeconds"))...)
	if s.RevisionHistoryLimit != nil {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*s.RevisionHistoryLimit), path.Child("revisionHistoryLimit"))...)
	}
	if s.ProgressDeadlineSeconds != nil {
		at := path.Child("progressDeadlineSeconds")
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*s.ProgressDeadlineSeconds), at)...)
		if *s.ProgressDeadlineSeconds <= s.MinReadySeconds {
			problems = append(problems, field.Invalid(at, *s.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	return problems
}

func validateStrategy(s *appsv1.DeploymentStrategy, at *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(at.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		surge, unavailable := s.RollingUpdate.MaxSurge, s.RollingUpdate.MaxUnavailable
		at = at.Child("rollingUpdate")
		problems := core.CountOrPercent(unavailable, at.Child("maxUnavailable"))
		problems = append(problems, core.CountOrPercent(surge, at.Child("maxSurge"))...)
		if none(unavailable) && none(surge) {
			problems = append(problems, field.Invalid(at.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
		}
		return append(problems, core.AtMostAll(unavailable, at.Child("maxUnavailable"))...)
	}
	return field.ErrorList{field.NotSupported(at, core.Shown(s),
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

// none tells whether a count or percentage is 0 or no number at all.
func none(v *intstr.IntOrString) bool {
	if percent, ok := core.Percent(v); ok {
		return percent == 0
	}
	return v.IntValue() == 0
}

// validateSelected checks a template that a selector selects, unless the selector itself cannot be read.
func validateSelected(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return field.ErrorList{field.Invalid(path.Child("selector"), selector, "invalid label selector")}
	}
	problems := core.ValidateSelected(s, selector == nil, t, path)
	problems = append(problems, core.ValidateTemplate(t, path.Child("template"))...)
	return append(problems, validateRestart("ReplicaSet", t, path)...)
}

// validateRestart checks what the pods of workloads that go on for ever must be.
func validateRestart(kind string, t *corev1.PodTemplateSpec, path *field.Path) (problems field.ErrorList) {
	at := path.Child("template", "spec")
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		problems = append(problems, field.NotSupported(at.Child("restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		problems = append(problems, field.Forbidden(at.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return problems
}

// count is one of the numbers of a status.
type count struct {
	name  string
	value int32
}

// validateCounts checks the numbers of a status: none below 0, none but the first above the first.
func validateCounts(counts []count, observed int64, terminating *int32) (problems field.ErrorList) {
	at := field.NewPath("status")
	for _, c := range counts {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(c.value), at.Child(c.name))...)
	}
	problems = append(problems, apivalidation.ValidateNonnegativeField(observed, at.Child("observedGeneration"))...)
	problems = append(problems, validateTerminating(terminating)...)
	return append(problems, validateShares(counts)...)
}

// validateShares checks that no number is above the first.
func validateShares(counts []count) (problems field.ErrorList) {
	at := field.NewPath("status")
	for _, c := range counts[1:] {
		if c.value > counts[0].value {
			problems = append(problems, field.Invalid(at.Child(c.name), c.value, "cannot be greater than status.replicas"))
		}
	}
	return problems
}

func notReady(available, ready int32) field.ErrorList {
	if available > ready {
		return field.ErrorList{field.Invalid(field.NewPath("status", "availableReplicas"), available, "cannot be greater than readyReplicas")}
	}
	return nil
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	s := &d.Status
	at := field.NewPath("status")
	problems := apivalidation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))
	counts := []count{
		{"replicas", s.Replicas}, {"updatedReplicas", s.UpdatedReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas},
	}
	for _, c := range append(counts[:4:4], count{"unavailableReplicas", s.UnavailableReplicas}) {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(c.value), at.Child(c.name))...)
	}
	problems = append(problems, validateTerminating(s.TerminatingReplicas)...)
	if s.CollisionCount != nil {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*s.CollisionCount), at.Child("collisionCount"))...)
	}
	problems = append(problems, validateShares(counts)...)
	problems = append(problems, notReady(s.AvailableReplicas, s.ReadyReplicas)...)
	return append(problems, validateDecrement(s.CollisionCount, old.Status.CollisionCount)...)
}

func validateTerminating(n *int32) field.ErrorList {
	if n == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(int64(*n), field.NewPath("status", "terminatingReplicas"))
}

// validateCollisions checks a count that only grows.
func validateCollisions(count, old *int32) (problems field.ErrorList) {
	if count != nil {
		problems = apivalidation.ValidateNonnegativeField(int64(*count), field.NewPath("status", "collisionCount"))
	}
	return append(problems, validateDecrement(count, old)...)
}

func validateDecrement(count, old *int32) field.ErrorList {
	now := int32(0)
	if count != nil {
		now = *count
	}
	if old != nil && now < *old {
		return field.ErrorList{field.Invalid(field.NewPath("status", "collisionCount"), now, "cannot be decremented")}
	}
	return nil
}
