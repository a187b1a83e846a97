// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"bytes"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// ControllerRevisions are the recorded states of stateful and daemon sets.
var ControllerRevisions = resource.WithList(resource.Define(resource.Definition[appsv1.ControllerRevision]{
	Group: "apps", Version: "v1", Kind: "ControllerRevision", Resource: "controllerrevisions",
	Scope:       resource.Namespaced,
	StoragePath: "controllerrevisions",
	Validate: func(r *appsv1.ControllerRevision) field.ErrorList {
		return apivalidation.ValidateNonnegativeField(r.Revision, field.NewPath("revision"))
	},
	ValidateCreate: func(r *appsv1.ControllerRevision) (problems field.ErrorList) {
		switch raw := bytes.TrimSpace(r.Data.Raw); {
		case len(raw) == 0 && r.Data.Object == nil:
			problems = append(problems, field.Required(field.NewPath("data"), "data is mandatory"))
		case len(raw) > 0 && raw[0] != '{':
			problems = append(problems, field.Required(field.NewPath("data"), "data must be a valid JSON object"))
		}
		return problems
	},
	ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
		return apivalidation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))
	},
	Columns: []resource.Column[appsv1.ControllerRevision]{
		{Name: "Controller", Description: "Controller of the object", Value: func(r *appsv1.ControllerRevision, _ time.Time) any { return controllerOf(r) }},
		{Name: "Revision", Description: appsv1.ControllerRevision{}.SwaggerDoc()["revision"],
			Value: func(r *appsv1.ControllerRevision, _ time.Time) any { return r.Revision }},
		{Name: "Age", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
			Value: func(r *appsv1.ControllerRevision, now time.Time) any { return core.Age(r.CreationTimestamp, now) }},
	},
}), func() runtime.Object { return new(appsv1.ControllerRevisionList) })

// controllerOf names the controller of a revision: statefulset.apps/web.
func controllerOf(r *appsv1.ControllerRevision) string {
	owner := metav1.GetControllerOf(r)
	if owner == nil {
		return "<none>"
	}
	return core.QualifiedName(owner.APIVersion, owner.Kind, owner.Name)
}
