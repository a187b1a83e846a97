// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// ReplicationControllers keep a set number of identical pods running, as ReplicaSets do now.
var ReplicationControllers = resource.WithList(resource.Define(resource.Definition[corev1.ReplicationController]{
	Group: "", Version: "v1", Kind: "ReplicationController", Resource: "replicationcontrollers",
	ShortNames:  []string{"rc"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "controllers",
	Default:     defaultReplicationController,
	Name:        replicationControllerName,
	PrepareCreate: func(r *corev1.ReplicationController) {
		r.Status, r.Generation = corev1.ReplicationControllerStatus{}, 1
	},
	PrepareUpdate: func(r, old *corev1.ReplicationController) {
		r.Status, r.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(r.Spec, old.Spec) {
			r.Generation++
		}
	},
	Validate:       validateReplicationController,
	WarningsCreate: func(r *corev1.ReplicationController) []string { return NameWarnings(r.Name) },
	Warnings:       replicationWarnings,
	WarningsUpdate: func(r, old *corev1.ReplicationController) []string {
		if r.Generation == old.Generation {
			return nil
		}
		return replicationWarnings(old) // Kubernetes looks at the old one
	},
	DefaultPropagation: metav1.DeletePropagationOrphan,
	Columns:            replicationControllerColumns(),
	Fields: func(r *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": fmt.Sprint(r.Status.Replicas)}
	},
	FieldNames: []string{"status.replicas"},
	Subresources: resource.Subresources[corev1.ReplicationController]{
		Status: &resource.Status[corev1.ReplicationController]{Prepare: func(obj, old *corev1.ReplicationController) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: func(obj, _ *corev1.ReplicationController) field.ErrorList {
			return validateReplicationStatus(&obj.Status)
		}},
		Scale: &resource.Scale[corev1.ReplicationController]{
			Path: ".spec.replicas",
			Get: func(r *corev1.ReplicationController) (int32, int32, string) {
				return *r.Spec.Replicas, r.Status.Replicas, labels.Set(r.Spec.Selector).String()
			},
			Set: func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
		},
	},
}), func() runtime.Object { return new(corev1.ReplicationControllerList) })

// replicationControllerName checks a name, but no prefix of one: of this kind, only the whole name counts.
func replicationControllerName(name string, prefix bool) []string {
	switch {
	case prefix:
		return nil
	case len(name) > validation.DNS1123SubdomainMaxLength:
		return []string{fmt.Sprintf("must be no more than %d bytes", validation.DNS1123SubdomainMaxLength)}
	}
	return validation.IsDNS1123Subdomain(name)
}

func replicationControllerColumns() []resource.Column[corev1.ReplicationController] {
	doc, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	template := func(r *corev1.ReplicationController) *corev1.PodSpec {
		if r.Spec.Template == nil {
			return &corev1.PodSpec{}
		}
		return &r.Spec.Template.Spec
	}
	return []resource.Column[corev1.ReplicationController]{
		{Name: "Desired", Type: "integer", Description: doc["replicas"],
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return int64(*r.Spec.Replicas) }},
		{Name: "Current", Type: "integer", Description: status["replicas"],
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return int64(r.Status.Replicas) }},
		{Name: "Ready", Type: "integer", Description: status["readyReplicas"],
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return int64(r.Status.ReadyReplicas) }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(r *corev1.ReplicationController, now time.Time) any { return Age(r.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: ContainersDoc,
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return ContainerNames(template(r)) }},
		{Name: "Images", Wide: true, Description: ImagesDoc,
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return ContainerImages(template(r)) }},
		{Name: "Selector", Wide: true, Description: doc["selector"],
			Value: func(r *corev1.ReplicationController, _ time.Time) any { return labels.FormatLabels(r.Spec.Selector) }},
	}
}

func replicationWarnings(r *corev1.ReplicationController) []string {
	if r.Spec.Template == nil {
		return nil
	}
	return TemplateWarnings(field.NewPath("spec", "template"), r.Spec.Template)
}

func defaultReplicationController(r *corev1.ReplicationController) {
	if r.Spec.Template != nil {
		if len(r.Spec.Selector) == 0 {
			r.Spec.Selector = maps.Clone(r.Spec.Template.Labels)
		}
		if len(r.Labels) == 0 {
			r.Labels = maps.Clone(r.Spec.Template.Labels)
		}
		DefaultPodTemplate(r.Spec.Template)
	}
	setDefault(&r.Spec.Replicas, 1)
}

func validateReplicationController(r *corev1.ReplicationController) field.ErrorList {
	s, at := &r.Spec, field.NewPath("spec")
	problems := apivalidation.ValidateNonnegativeField(int64(s.MinReadySeconds), at.Child("minReadySeconds"))
	if len(s.Selector) == 0 {
		problems = append(problems, field.Required(at.Child("selector"), ""))
	}
	problems = append(problems, apivalidation.ValidateNonnegativeField(int64(*s.Replicas), at.Child("replicas"))...)
	template := at.Child("template")
	if s.Template == nil {
		return append(problems, field.Required(template, ""))
	}
	if len(s.Selector) > 0 && !labels.SelectorFromSet(s.Selector).Matches(labels.Set(s.Template.Labels)) {
		problems = append(problems, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	problems = append(problems, ValidateTemplate(s.Template, template)...)
	if p := s.Template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		problems = append(problems, field.NotSupported(template.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		problems = append(problems, field.Forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return problems
}

func validateReplicationStatus(s *corev1.ReplicationControllerStatus) (problems field.ErrorList) {
	at := field.NewPath("status")
	counts := []struct {
		name  string
		value int32
	}{{"replicas", s.Replicas}, {"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	for _, c := range counts {
		problems = append(problems, apivalidation.ValidateNonnegativeField(int64(c.value), at.Child(c.name))...)
	}
	problems = append(problems, apivalidation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))...)
	for _, c := range counts[1:] {
		if c.value > s.Replicas {
			problems = append(problems, field.Invalid(at.Child(c.name), c.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		problems = append(problems, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return problems
}
