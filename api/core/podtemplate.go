// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// PodTemplates are pods to be.
var PodTemplates = resource.WithList(resource.Define(resource.Definition[corev1.PodTemplate]{
	Group: "", Version: "v1", Kind: "PodTemplate", Resource: "podtemplates",
	Scope:         resource.Namespaced,
	Default:       func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) },
	PrepareCreate: func(t *corev1.PodTemplate) { t.Generation = 1 },
	PrepareUpdate: func(t, old *corev1.PodTemplate) {
		t.Generation = old.Generation
		if !equality.Semantic.DeepEqual(t.Template, old.Template) {
			t.Generation++
		}
	},
	Validate: func(t *corev1.PodTemplate) field.ErrorList {
		return ValidateTemplate(&t.Template, field.NewPath("template"))
	},
	Warnings: func(t *corev1.PodTemplate) []string { return TemplateWarnings(field.NewPath("template"), &t.Template) },
	Ageless:  true,
	WarningsUpdate: func(t, old *corev1.PodTemplate) []string {
		if t.Generation == old.Generation {
			return nil
		}
		return TemplateWarnings(field.NewPath("template"), &t.Template)
	},
	Columns: []resource.Column[corev1.PodTemplate]{
		{Name: "Containers", Description: ContainersDoc, Value: func(t *corev1.PodTemplate, _ time.Time) any { return ContainerNames(&t.Template.Spec) }},
		{Name: "Images", Description: ImagesDoc, Value: func(t *corev1.PodTemplate, _ time.Time) any { return ContainerImages(&t.Template.Spec) }},
		{Name: "Pod Labels", Description: "The labels for the pod template.",
			Value: func(t *corev1.PodTemplate, _ time.Time) any { return labels.FormatLabels(t.Template.Labels) }},
	},
}), func() runtime.Object { return new(corev1.PodTemplateList) })
