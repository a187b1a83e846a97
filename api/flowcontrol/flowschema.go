// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

const defaultPrecedence = 1000

// FlowSchemas sort requests into priority levels.
var FlowSchemas = resource.WithList(resource.Define(resource.Definition[flowcontrolv1.FlowSchema]{
	Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Kind: "FlowSchema", Resource: "flowschemas",
	Scope:       resource.Cluster,
	StoragePath: "flowschemas",
	Default: func(s *flowcontrolv1.FlowSchema) {
		if s.Spec.MatchingPrecedence == 0 {
			s.Spec.MatchingPrecedence = defaultPrecedence
		}
	},
	PrepareCreate: func(s *flowcontrolv1.FlowSchema) {
		s.Status = flowcontrolv1.FlowSchemaStatus{}
		s.Generation = 1
	},
	PrepareUpdate: func(s, old *flowcontrolv1.FlowSchema) {
		s.Status, s.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(s.Spec, old.Spec) {
			s.Generation++
		}
	},
	Validate: validateFlowSchema,
	Columns: []resource.Column[flowcontrolv1.FlowSchema]{
		{Name: "PriorityLevel", Value: func(s *flowcontrolv1.FlowSchema, _ time.Time) any { return s.Spec.PriorityLevelConfiguration.Name }},
		{Name: "MatchingPrecedence", Value: func(s *flowcontrolv1.FlowSchema, _ time.Time) any { return int64(s.Spec.MatchingPrecedence) }},
		{Name: "DistinguisherMethod", Value: func(s *flowcontrolv1.FlowSchema, _ time.Time) any {
			if s.Spec.DistinguisherMethod == nil {
				return "<none>"
			}
			return string(s.Spec.DistinguisherMethod.Type)
		}},
		{Name: "Age", Value: func(s *flowcontrolv1.FlowSchema, now time.Time) any { return ageText(s.CreationTimestamp, now) }},
		{Name: "MissingPL", Value: func(s *flowcontrolv1.FlowSchema, _ time.Time) any {
			for _, c := range s.Status.Conditions {
				if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
					return string(c.Status)
				}
			}
			return "?"
		}},
	},
	Subresources: resource.Subresources[flowcontrolv1.FlowSchema]{
		Status: &resource.Status[flowcontrolv1.FlowSchema]{Prepare: func(s, old *flowcontrolv1.FlowSchema) {
			status := s.Status
			*s = *old.DeepCopy()
			s.Status = status
		}, Validate: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList { return validateSchemaStatus(&s.Status) }, KeepMetadata: true},
	},
}), func() runtime.Object { return new(flowcontrolv1.FlowSchemaList) })
