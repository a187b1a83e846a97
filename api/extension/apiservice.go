// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package extension

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/validation"

	"knarr.dev/api/resource"
)

// APIServices say who serves which group and version: this server, or another one behind a Service.
var APIServices = resource.WithStorage(resource.WithList(resource.Define(resource.Definition[apiregistrationv1.APIService]{
	Group: apiregistrationv1.GroupName, Version: "v1", Kind: "APIService", Resource: "apiservices",
	Categories:    []string{"api-extensions"},
	NeedsRevision: true,
	NameOf: func(a *apiregistrationv1.APIService) func(string, bool) []string {
		return func(name string, _ bool) []string {
			want := a.Spec.Version + "." + a.Spec.Group
			if name == want {
				return nil
			}
			return append(path.IsValidPathSegmentName(name), fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want))
		}
	},
	Default: apiregistrationv1.SetObjectDefaults_APIService,
	PrepareCreate: func(a *apiregistrationv1.APIService) {
		a.Status = apiregistrationv1.APIServiceStatus{}
		if a.Spec.Service == nil { // this server, which is there
			a.Status.Conditions = []apiregistrationv1.APIServiceCondition{LocalAvailable(time.Now())}
		}
	},
	PrepareUpdate: func(a, old *apiregistrationv1.APIService) { a.Status = *old.Status.DeepCopy() },
	ValidateCreate: func(a *apiregistrationv1.APIService) field.ErrorList {
		internal, err := internalService(a)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return withoutMetadata(validation.ValidateAPIService(internal))
	},
	ValidateUpdate: func(a, old *apiregistrationv1.APIService) field.ErrorList {
		internal, err := internalService(a)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		before, err := internalService(old)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return withoutMetadata(validation.ValidateAPIServiceUpdate(internal, before))
	},
	Columns: []resource.Column[apiregistrationv1.APIService]{
		{Name: "Service", Description: "The reference to the service that hosts this API endpoint.", Value: func(a *apiregistrationv1.APIService, _ time.Time) any {
			if a.Spec.Service == nil {
				return "Local"
			}
			return a.Spec.Service.Namespace + "/" + a.Spec.Service.Name
		}},
		{Name: "Available", Description: "Whether this service is available.", Value: func(a *apiregistrationv1.APIService, _ time.Time) any { return availability(a) }},
	},
	Subresources: resource.Subresources[apiregistrationv1.APIService]{
		Status: &resource.Status[apiregistrationv1.APIService]{
			Prepare: func(a, old *apiregistrationv1.APIService) {
				status := a.Status
				*a = *old.DeepCopy()
				a.Status = status
			},
			Validate: func(a, _ *apiregistrationv1.APIService) field.ErrorList {
				internal, err := internalService(a)
				if err != nil {
					return field.ErrorList{field.InternalError(nil, err)}
				}
				return validation.ValidateAPIServiceStatus(&internal.Status, field.NewPath("status"))
			},
			KeepMetadata: true,
		},
	},
}), func() runtime.Object { return new(apiregistrationv1.APIServiceList) }), serviceStorage())

func internalService(a *apiregistrationv1.APIService) (*apiregistration.APIService, error) {
	out := new(apiregistration.APIService)
	err := apiregistrationv1.Convert_v1_APIService_To_apiregistration_APIService(a.DeepCopy(), out, nil)
	return out, err
}

// LocalAvailable is the condition of groups that this server serves itself.
func LocalAvailable(now time.Time) apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Local",
		Message: "Local APIServices are always available", LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
	}
}

// availability is the condition as tables show it.
func availability(a *apiregistrationv1.APIService) string {
	for _, c := range a.Status.Conditions {
		switch {
		case c.Type != apiregistrationv1.Available:
		case c.Status == apiregistrationv1.ConditionTrue:
			return string(c.Status)
		default:
			return string(c.Status) + " (" + c.Reason + ")"
		}
	}
	return string(apiregistrationv1.ConditionUnknown)
}

// IsAvailable says whether requests may be sent on.
func IsAvailable(a *apiregistrationv1.APIService) bool {
	for _, c := range a.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			return c.Status == apiregistrationv1.ConditionTrue
		}
	}
	return false
}
