// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/flowcontrol"
	"knarr.dev/api/resource"
)

// keepFlowSchemas tells in the status of each FlowSchema whether its priority level exists, until ctx ends.
func (s *Server) keepFlowSchemas(ctx context.Context) {
	schemas, levels := s.registry(flowcontrol.FlowSchemas.Kind), s.registry(flowcontrol.PriorityLevelConfigurations.Kind)
	if schemas == nil || levels == nil {
		return
	}
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range []*registry{schemas, levels} {
		wg.Go(func() {
			_ = r.cache.View(r.kind, nil).Subscribe(ctx, func(_, _ resource.Object) {
				select {
				case changed <- struct{}{}:
				default:
				}
			}, func() {})
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if err := s.markDangling(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("could not tell which flow schemas dangle", "err", err)
		}
	}
}

// markDangling brings the conditions of all FlowSchemas up to date.
func (s *Server) markDangling(ctx context.Context) error {
	objects := s.objects()
	known := map[string]bool{}
	err := objects.List(ctx, flowcontrol.PriorityLevelConfigurations.Kind, "", func(o resource.Object) bool {
		known[o.GetName()] = true
		return true
	})
	if err != nil {
		return err
	}
	var wrong []string
	err = objects.List(ctx, flowcontrol.FlowSchemas.Kind, "", func(o resource.Object) bool {
		schema := flowcontrol.FlowSchemas.Cast(o)
		if want, have := dangling(schema, known), conditionOf(schema); have == nil || have.Status != want.Status || have.Message != want.Message {
			wrong = append(wrong, schema.Name)
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, name := range wrong {
		_, err := objects.Update(ctx, flowcontrol.FlowSchemas.Kind, "", name, false, func(o resource.Object) error {
			setDangling(flowcontrol.FlowSchemas.Cast(o), known)
			return nil
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func conditionOf(schema *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaCondition {
	for i := range schema.Status.Conditions {
		if c := &schema.Status.Conditions[i]; c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			return c
		}
	}
	return nil
}

func dangling(schema *flowcontrolv1.FlowSchema, known map[string]bool) flowcontrolv1.FlowSchemaCondition {
	level := schema.Spec.PriorityLevelConfiguration.Name
	c := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found"}
	text := "and it exists"
	if !known[level] {
		c.Status, c.Reason, text = flowcontrolv1.ConditionTrue, "NotFound", "but there is no such object"
	}
	c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q %s", level, text)
	return c
}

func setDangling(schema *flowcontrolv1.FlowSchema, known map[string]bool) {
	want, have := dangling(schema, known), conditionOf(schema)
	want.LastTransitionTime = metav1.NewTime(time.Now().Truncate(time.Second))
	if have == nil {
		schema.Status.Conditions = append(schema.Status.Conditions, want)
	} else {
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
	}
	ownStatus(schema, "api-priority-and-fairness-config-consumer-v1", flowcontrolv1.SchemeGroupVersion.String(), string(flowcontrolv1.FlowSchemaConditionDangling), true)
}
