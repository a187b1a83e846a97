// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// DaemonSets run a pod on every node.
var DaemonSets = resource.WithList(resource.Define(resource.Definition[appsv1.DaemonSet]{
	Group: "apps", Version: "v1", Kind: "DaemonSet", Resource: "daemonsets",
	ShortNames:  []string{"ds"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "daemonsets",
	Default:     defaultDaemonSet,
	PrepareCreate: func(d *appsv1.DaemonSet) {
		d.Status, d.Generation = appsv1.DaemonSetStatus{}, 1
		setTemplateGeneration(d, max(templateGeneration(d), 1))
	},
	PrepareUpdate: func(d, old *appsv1.DaemonSet) {
		d.Status, d.Generation = *old.Status.DeepCopy(), old.Generation
		setTemplateGeneration(d, templateGeneration(old))
		switch {
		case !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template):
			setTemplateGeneration(d, templateGeneration(old)+1)
			d.Generation++
		case !equality.Semantic.DeepEqual(d.Spec, old.Spec):
			d.Generation++
		}
	},
	ValidateCreate: validateDaemonSet,
	ValidateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
		problems := apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
		return append(problems, validateDaemonSet(d)...)
	},
	Warnings: func(d *appsv1.DaemonSet) []string { return templateWarnings(&d.Spec.Template) },
	WarningsUpdate: func(d, old *appsv1.DaemonSet) []string {
		if templateGeneration(d) == templateGeneration(old) {
			return nil
		}
		return templateWarnings(&d.Spec.Template)
	},
	Readable: func(d *appsv1.DaemonSet) error {
		text, ok := d.Annotations[appsv1.DeprecatedTemplateGeneration]
		if !ok {
			return nil
		}
		_, err := strconv.ParseInt(text, 10, 64)
		return err
	},
	Hidden:  []string{appsv1.DeprecatedTemplateGeneration},
	Columns: daemonSetColumns(),
	Subresources: resource.Subresources[appsv1.DaemonSet]{
		Status: &resource.Status[appsv1.DaemonSet]{Prepare: func(obj, old *appsv1.DaemonSet) {
			setTemplateGeneration(obj, templateGeneration(old)) // in the annotations that stay
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: validateDaemonSetStatus},
	},
}), func() runtime.Object { return new(appsv1.DaemonSetList) })

func daemonSetColumns() []resource.Column[appsv1.DaemonSet] {
	doc, spec := appsv1.DaemonSetStatus{}.SwaggerDoc(), appsv1.DaemonSetSpec{}.SwaggerDoc()
	number := func(name, field string, value func(*appsv1.DaemonSetStatus) int32) resource.Column[appsv1.DaemonSet] {
		return resource.Column[appsv1.DaemonSet]{Name: name, Type: "integer", Description: doc[field],
			Value: func(d *appsv1.DaemonSet, _ time.Time) any { return int64(value(&d.Status)) }}
	}
	return []resource.Column[appsv1.DaemonSet]{
		number("Desired", "desiredNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.DesiredNumberScheduled }),
		number("Current", "currentNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.CurrentNumberScheduled }),
		number("Ready", "numberReady", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberReady }),
		number("Up-to-date", "updatedNumberScheduled", func(s *appsv1.DaemonSetStatus) int32 { return s.UpdatedNumberScheduled }),
		number("Available", "numberAvailable", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberAvailable }),
		{Name: "Node Selector", Description: corev1.PodSpec{}.SwaggerDoc()["nodeSelector"],
			Value: func(d *appsv1.DaemonSet, _ time.Time) any {
				return labels.FormatLabels(d.Spec.Template.Spec.NodeSelector)
			}},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(d *appsv1.DaemonSet, now time.Time) any { return core.Age(d.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(d *appsv1.DaemonSet, _ time.Time) any { return core.ContainerNames(&d.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(d *appsv1.DaemonSet, _ time.Time) any { return core.ContainerImages(&d.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: spec["selector"],
			Value: func(d *appsv1.DaemonSet, _ time.Time) any { return metav1.FormatLabelSelector(d.Spec.Selector) }},
	}
}

// templateGeneration is how often the template changed, which only an annotation tells.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, _ := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	text := strconv.FormatInt(n, 10)
	if d.Annotations[appsv1.DeprecatedTemplateGeneration] == text {
		return
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = text
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	setTemplateGeneration(d, templateGeneration(d))
	s := &d.Spec
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		orDefault(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		orDefault(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	if r := s.UpdateStrategy.RollingUpdate; r != nil { // of another strategy
		orDefault(&r.MaxUnavailable, intstr.FromInt32(0))
		orDefault(&r.MaxSurge, intstr.FromInt32(0))
	}
	orDefault(&s.RevisionHistoryLimit, 10)
	core.DefaultPodTemplate(&s.Template)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	s, at := &d.Spec, field.NewPath("spec")
	problems := metavalidation.ValidateLabelSelector(s.Selector, metavalidation.LabelSelectorValidationOptions{}, at.Child("selector"))
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		problems = append(problems, field.Invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		problems = append(problems, field.Invalid(at.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	problems = append(problems, core.ValidateTemplate(&s.Template, at.Child("template"))...)
	problems = append(problems, validateRestart("DaemonSet", &s.Template, at)...)
	problems = append(problems, apivalidation.ValidateNonnegativeField(int64(s.MinReadySeconds), at.Child("minReadySeconds"))...)
	problems = append(problems, validateDaemonSetStrategy(&s.UpdateStrategy, at.Child("updateStrategy"))...)
	if s.RevisionHistoryLimit != nil {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*s.RevisionHistoryLimit), at.Child("revisionHistoryLimit"))...)
	}
	return problems
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, at *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(at.Child("rollingUpdate"), "")}
		}
		return validateDaemonSetRolling(s.RollingUpdate, at.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(at, core.Shown(s),
		[]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
}

func validateDaemonSetRolling(r *appsv1.RollingUpdateDaemonSet, at *field.Path) field.ErrorList {
	unavailable, surge := at.Child("maxUnavailable"), at.Child("maxSurge")
	problems := core.CountOrPercent(r.MaxUnavailable, unavailable)
	problems = append(problems, core.AtMostAll(r.MaxUnavailable, unavailable)...)
	problems = append(problems, core.CountOrPercent(r.MaxSurge, surge)...)
	problems = append(problems, core.AtMostAll(r.MaxSurge, surge)...)
	switch hasUnavailable, hasSurge := !none(r.MaxUnavailable), !none(r.MaxSurge); {
	case hasUnavailable && hasSurge:
		problems = append(problems, field.Invalid(surge, r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		problems = append(problems, field.Required(unavailable, "cannot be 0 when maxSurge is 0"))
	}
	return problems
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) (problems field.ErrorList) {
	s, at := &d.Status, field.NewPath("status")
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)}, {"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)}, {"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration}, {"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)}, {"numberUnavailable", int64(s.NumberUnavailable)},
	} {
		problems = append(problems, apivalidation.ValidateNonnegativeField(f.value, at.Child(f.name))...)
	}
	return append(problems, validateCollisions(s.CollisionCount, old.Status.CollisionCount)...)
}
