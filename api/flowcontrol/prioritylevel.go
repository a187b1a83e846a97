// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"
	"math"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// What a level has unless it says otherwise, and bounds.
const (
	defaultShares      = 30
	defaultQueues      = 64
	defaultHandSize    = 8
	defaultQueueLength = 50
	queuesMax          = 10 * 1000 * 1000
	entropyBitsMax     = 60
)

// PriorityLevelConfigurations divide what the server can do at once.
var PriorityLevelConfigurations = resource.WithList(resource.Define(resource.Definition[flowcontrolv1.PriorityLevelConfiguration]{
	Group: "flowcontrol.apiserver.k8s.io", Version: "v1", Kind: "PriorityLevelConfiguration", Resource: "prioritylevelconfigurations",
	Scope:       resource.Cluster,
	StoragePath: "prioritylevelconfigurations",
	Default:     defaultLevel,
	PrepareCreate: func(l *flowcontrolv1.PriorityLevelConfiguration) {
		l.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
		l.Generation = 1
	},
	PrepareUpdate: func(l, old *flowcontrolv1.PriorityLevelConfiguration) {
		l.Status, l.Generation = *old.Status.DeepCopy(), old.Generation
		if !equality.Semantic.DeepEqual(l.Spec, old.Spec) {
			l.Generation++
		}
	},
	Validate: validateLevel,
	Columns:  levelColumns,
	Subresources: resource.Subresources[flowcontrolv1.PriorityLevelConfiguration]{
		Status: &resource.Status[flowcontrolv1.PriorityLevelConfiguration]{Prepare: func(l, old *flowcontrolv1.PriorityLevelConfiguration) {
			status := l.Status
			*l = *old.DeepCopy()
			l.Status = status
		}, Validate: func(l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return validateLevelStatus(&l.Status)
		}, KeepMetadata: true},
	},
}), func() runtime.Object { return new(flowcontrolv1.PriorityLevelConfigurationList) })

var levelColumns = []resource.Column[flowcontrolv1.PriorityLevelConfiguration]{
	{Name: "Type", Value: func(l *flowcontrolv1.PriorityLevelConfiguration, _ time.Time) any { return string(l.Spec.Type) }},
	{Name: "NominalConcurrencyShares", Value: func(l *flowcontrolv1.PriorityLevelConfiguration, _ time.Time) any {
		if l.Spec.Limited == nil || l.Spec.Limited.NominalConcurrencyShares == nil {
			return "<none>"
		}
		return int64(*l.Spec.Limited.NominalConcurrencyShares)
	}},
	{Name: "Queues", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.Queues })},
	{Name: "HandSize", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.HandSize })},
	{Name: "QueueLengthLimit", Value: queuing(func(q *flowcontrolv1.QueuingConfiguration) int32 { return q.QueueLengthLimit })},
}

func queuing(value func(*flowcontrolv1.QueuingConfiguration) int32) func(*flowcontrolv1.PriorityLevelConfiguration, time.Time) any {
	return func(l *flowcontrolv1.PriorityLevelConfiguration, _ time.Time) any {
		if l.Spec.Limited == nil || l.Spec.Limited.LimitResponse.Queuing == nil {
			return "<none>"
		}
		return int64(value(l.Spec.Limited.LimitResponse.Queuing))
	}
}

func ageText(t metav1.Time, now time.Time) string { return core.Age(t, now) }

func defaultLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	if e := l.Spec.Exempt; e != nil {
		core.SetDefault(&e.NominalConcurrencyShares, 0)
		core.SetDefault(&e.LendablePercent, 0)
	}
	limited := l.Spec.Limited
	if limited == nil {
		return
	}
	core.SetDefault(&limited.NominalConcurrencyShares, defaultShares)
	core.SetDefault(&limited.LendablePercent, 0)
	if q := limited.LimitResponse.Queuing; q != nil {
		for _, f := range []struct {
			value *int32
			usual int32
		}{{&q.Queues, defaultQueues}, {&q.HandSize, defaultHandSize}, {&q.QueueLengthLimit, defaultQueueLength}} {
			if *f.value == 0 {
				*f.value = f.usual
			}
		}
	}
}

func validateLevel(l *flowcontrolv1.PriorityLevelConfiguration) (problems field.ErrorList) {
	s, at := &l.Spec, field.NewPath("spec")
	exempt := s.Type == flowcontrolv1.PriorityLevelEnablementExempt
	if (l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != exempt {
		problems = append(problems, field.Invalid(at.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			problems = append(problems, field.Forbidden(at.Child("limited"), "must be nil if the type is not Limited"))
		}
		if s.Exempt != nil {
			problems = append(problems, shares(s.Exempt.NominalConcurrencyShares, at.Child("exempt", "nominalConcurrencyShares"))...)
			problems = append(problems, percent(s.Exempt.LendablePercent, at.Child("exempt", "lendablePercent"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			problems = append(problems, field.Forbidden(at.Child("exempt"), "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			problems = append(problems, field.Required(at.Child("limited"), "must not be empty when type is Limited"))
		} else {
			problems = append(problems, validateLimited(s.Limited, at.Child("limited"))...)
		}
	case "":
		problems = append(problems, field.Required(at.Child("type"), ""))
	default:
		problems = append(problems, field.NotSupported(at.Child("type"), s.Type, []flowcontrolv1.PriorityLevelEnablement{
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	problems = append(problems, validateFixed(l, at)...)
	return append(problems, validateLevelStatus(&l.Status)...)
}

// validateFixed keeps the two levels as they are without which nothing works; what the exempt level lends may change.
func validateFixed(l *flowcontrolv1.PriorityLevelConfiguration, at *field.Path) field.ErrorList {
	switch l.Name {
	case flowcontrolv1.PriorityLevelConfigurationNameExempt:
		fixed, now := exemptLevel().Spec, *l.Spec.DeepCopy()
		fixed.Exempt, now.Exempt = nil, nil
		if !equality.Semantic.DeepEqual(fixed, now) {
			return field.ErrorList{field.Invalid(at, core.Shown(l.Spec), "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value")}
		}
	case flowcontrolv1.PriorityLevelConfigurationNameCatchAll:
		if !equality.Semantic.DeepEqual(catchAllLevel().Spec, l.Spec) {
			return field.ErrorList{field.Invalid(at, core.Shown(l.Spec), fmt.Sprintf("spec of '%s' must equal the fixed value", l.Name))}
		}
	}
	return nil
}

func shares(n *int32, at *field.Path) field.ErrorList {
	if n != nil && *n < 0 {
		return field.ErrorList{field.Invalid(at, *n, "must be a non-negative integer")}
	}
	return nil
}

func percent(n *int32, at *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(at, *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	problems := shares(l.NominalConcurrencyShares, at.Child("nominalConcurrencyShares"))
	response := at.Child("limitResponse")
	switch r := &l.LimitResponse; r.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if r.Queuing != nil {
			problems = append(problems, field.Forbidden(response.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if r.Queuing == nil {
			problems = append(problems, field.Required(response.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		} else {
			problems = append(problems, validateQueuing(r.Queuing, response.Child("queuing"))...)
		}
	case "":
		problems = append(problems, field.Required(response.Child("type"), ""))
	default:
		problems = append(problems, field.NotSupported(response.Child("type"), r.Type, []flowcontrolv1.LimitResponseType{
			flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	problems = append(problems, percent(l.LendablePercent, at.Child("lendablePercent"))...)
	if n := l.BorrowingLimitPercent; n != nil && *n < 0 {
		problems = append(problems, field.Invalid(at.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	return problems
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) (problems field.ErrorList) {
	if q.QueueLengthLimit <= 0 {
		problems = append(problems, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		problems = append(problems, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > queuesMax {
		problems = append(problems, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", queuesMax)))
	}
	hand := at.Child("handSize")
	switch {
	case q.HandSize <= 0:
		problems = append(problems, field.Invalid(hand, q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		problems = append(problems, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case entropyBits(q.Queues, q.HandSize) > entropyBitsMax:
		problems = append(problems, field.Invalid(hand, q.HandSize, fmt.Sprintf(
			"required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, entropyBitsMax)))
	}
	return problems
}

// entropyBits is how many bits of a hash it takes to deal a hand of queues.
func entropyBits(queues, hand int32) int {
	return int(math.Ceil(math.Log2(float64(queues)) * float64(hand)))
}

func validateLevelStatus(s *flowcontrolv1.PriorityLevelConfigurationStatus) (problems field.ErrorList) {
	seen := sets.New[flowcontrolv1.PriorityLevelConfigurationConditionType]()
	for i, c := range s.Conditions {
		problems = append(problems, conditionType(string(c.Type), seen.Has(c.Type), field.NewPath("status", "conditions").Index(i).Child("type"))...)
		seen.Insert(c.Type)
	}
	return problems
}
