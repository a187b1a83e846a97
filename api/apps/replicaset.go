// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// ReplicaSets keep a set number of identical pods running.
var ReplicaSets = resource.WithList(resource.Define(resource.Definition[appsv1.ReplicaSet]{
	Group: "apps", Version: "v1", Kind: "ReplicaSet", Resource: "replicasets",
	ShortNames:  []string{"rs"},
	Categories:  []string{"all"},
	Scope:       resource.Namespaced,
	StoragePath: "replicasets",
	Default: func(r *appsv1.ReplicaSet) {
		orDefault(&r.Spec.Replicas, 1)
		core.DefaultPodTemplate(&r.Spec.Template)
	},
	PrepareCreate: func(r *appsv1.ReplicaSet) {
		r.Generation, r.Status = 1, appsv1.ReplicaSetStatus{}
	},
	PrepareUpdate: func(r, old *appsv1.ReplicaSet) {
		r.Status, r.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(r.Spec, old.Spec) {
			r.Generation++
		}
	},
	Validate:       validateReplicaSet,
	WarningsCreate: func(r *appsv1.ReplicaSet) []string { return core.NameWarnings(r.Name) },
	Warnings:       func(r *appsv1.ReplicaSet) []string { return templateWarnings(&r.Spec.Template) },
	WarningsUpdate: func(r, old *appsv1.ReplicaSet) []string {
		if r.Generation == old.Generation {
			return nil
		}
		return templateWarnings(&r.Spec.Template)
	},
	ValidateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
		return apivalidation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))
	},
	Columns: replicaSetColumns(),
	Subresources: resource.Subresources[appsv1.ReplicaSet]{
		Status: &resource.Status[appsv1.ReplicaSet]{Prepare: func(obj, old *appsv1.ReplicaSet) {
			status := obj.Status
			*obj = *old.DeepCopy()
			obj.Status = status
		}, Validate: func(obj, _ *appsv1.ReplicaSet) field.ErrorList {
			s := &obj.Status
			problems := validateCounts([]count{
				{"replicas", s.Replicas}, {"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas},
			}, s.ObservedGeneration, s.TerminatingReplicas)
			return append(problems, notReady(s.AvailableReplicas, s.ReadyReplicas)...)
		}},
		Scale: &resource.Scale[appsv1.ReplicaSet]{
			Path: ".spec.replicas",
			Get: func(r *appsv1.ReplicaSet) (int32, int32, string) {
				return *r.Spec.Replicas, r.Status.Replicas, metav1.FormatLabelSelector(r.Spec.Selector)
			},
			Set: func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
		},
	},
}), func() runtime.Object { return new(appsv1.ReplicaSetList) })

func replicaSetColumns() []resource.Column[appsv1.ReplicaSet] {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return []resource.Column[appsv1.ReplicaSet]{
		{Name: "Desired", Type: "integer", Description: spec["replicas"], Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return int64(*r.Spec.Replicas) }},
		{Name: "Current", Type: "integer", Description: status["replicas"], Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return int64(r.Status.Replicas) }},
		{Name: "Ready", Type: "integer", Description: status["readyReplicas"], Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return int64(r.Status.ReadyReplicas) }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(r *appsv1.ReplicaSet, now time.Time) any { return core.Age(r.CreationTimestamp, now) }},
		{Name: "Containers", Wide: true, Description: core.ContainersDoc,
			Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return core.ContainerNames(&r.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: core.ImagesDoc,
			Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return core.ContainerImages(&r.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: spec["selector"],
			Value: func(r *appsv1.ReplicaSet, _ time.Time) any { return metav1.FormatLabelSelector(r.Spec.Selector) }},
	}
}

func validateReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	path := field.NewPath("spec")
	problems := apivalidation.ValidateNonnegativeField(int64(*r.Spec.Replicas), path.Child("replicas"))
	problems = append(problems, apivalidation.ValidateNonnegativeField(int64(r.Spec.MinReadySeconds), path.Child("minReadySeconds"))...)
	problems = append(problems, core.ValidateSelector(r.Spec.Selector, path)...)
	return append(problems, validateSelected(r.Spec.Selector, &r.Spec.Template, path)...)
}

func outOf(ready int32, want *int32) string {
	n := int32(0)
	if want != nil {
		n = *want
	}
	return fmt.Sprintf("%d/%d", ready, n)
}
