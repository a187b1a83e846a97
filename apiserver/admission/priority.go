// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/core"
	"knarr.dev/api/resource"
	"knarr.dev/api/scheduling"
)

// priority resolves a pod's priority class and keeps one class the default at most.
func priority(reader Reader) Step {
	p := prioritizer{reader}
	return Step{
		Name: "Priority",
		Mutate: func(ctx context.Context, r *Request) error {
			switch {
			case creates(r, core.Pods.Kind):
				return p.resolve(ctx, r)
			case r.Verb == "delete" && r.Kind == scheduling.PriorityClasses.Kind && systemClass(r.Name):
				return forbidden(r, "this is a system priority class and cannot be deleted")
			}
			return nil
		},
		Validate: func(ctx context.Context, r *Request) error {
			if creates(r, scheduling.PriorityClasses.Kind) || updates(r, scheduling.PriorityClasses.Kind) {
				return p.checkDefault(ctx, r)
			}
			return nil
		},
	}
}

func systemClass(name string) bool {
	return name == "system-node-critical" || name == "system-cluster-critical"
}

type prioritizer struct{ reader Reader }

func (p prioritizer) resolve(ctx context.Context, r *Request) error {
	pod := core.Pods.Cast(r.Object)
	var value int32
	policy := corev1.PreemptLowerPriority
	var class *schedulingv1.PriorityClass
	if pod.Spec.PriorityClassName == "" {
		found, err := p.defaultClass(ctx)
		if err != nil {
			return err
		}
		if class = found; class != nil {
			pod.Spec.PriorityClassName = class.Name
		}
	} else {
		o, err := p.reader.Get(ctx, scheduling.PriorityClasses.Kind, "", pod.Spec.PriorityClassName)
		if apierrors.IsNotFound(err) {
			return forbidden(r, fmt.Sprintf("no PriorityClass with name %s was found", pod.Spec.PriorityClassName))
		}
		if err != nil {
			return err
		}
		class = scheduling.PriorityClasses.Cast(o)
	}
	if class != nil {
		value = class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return forbidden(r, fmt.Sprintf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return forbidden(r, fmt.Sprintf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// defaultClass returns the global default with the lowest value, or nil.
func (p prioritizer) defaultClass(ctx context.Context) (lowest *schedulingv1.PriorityClass, err error) {
	err = p.reader.List(ctx, scheduling.PriorityClasses.Kind, "", func(o resource.Object) bool {
		if c := scheduling.PriorityClasses.Cast(o); c.GlobalDefault && (lowest == nil || c.Value < lowest.Value) {
			lowest = c
		}
		return true
	})
	return lowest, err
}

func (p prioritizer) checkDefault(ctx context.Context, r *Request) error {
	if !scheduling.PriorityClasses.Cast(r.Object).GlobalDefault {
		return nil
	}
	class, err := p.defaultClass(ctx)
	if err != nil {
		return err
	}
	if class != nil && (r.Verb == "create" || class.Name != r.Object.GetName()) {
		return forbidden(r, fmt.Sprintf("PriorityClass %s is already marked as default. Only one default can exist", class.Name))
	}
	return nil
}
