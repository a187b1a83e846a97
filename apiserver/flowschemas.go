// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/call"
	"knarr.dev/api/flowcontrol"
	"knarr.dev/api/resource"
	apf "knarr.dev/apiserver/flowcontrol"
)

// flowManager is the field manager of the objects of priority and fairness that the server makes.
const flowManager = "api-priority-and-fairness-config-producer-v1"

// maintainInterval is how often these objects are looked after, if one of them changed.
const maintainInterval = 15 * time.Second

// startFlows begins with the mandatory objects; configureFlows has the real ones.
func (s *Server) startFlows() {
	if s.cfg.Unfair {
		s.inFlight = newInFlight(s.cfg.MaxInFlight, s.cfg.MaxMutatingInFlight)
		return
	}
	s.flows = apf.New(max(s.cfg.MaxInFlight, 0) + max(s.cfg.MaxMutatingInFlight, 0))
	s.cfg.Metrics.MustRegister(s.flows.Collector())
}

// flowRegistries serve the objects of priority and fairness; nil if they are not served.
func (s *Server) flowRegistries() (schemas, levels *registry) {
	schemas, levels = s.registry(flowcontrol.FlowSchemas.Kind), s.registry(flowcontrol.PriorityLevelConfigurations.Kind)
	if schemas == nil || levels == nil {
		return nil, nil
	}
	return schemas, levels
}

// configureFlows makes flow control follow the objects.
func (s *Server) configureFlows() {
	schemas, levels := s.flowRegistries()
	if s.flows == nil || schemas == nil {
		return
	}
	var allSchemas []*flowcontrolv1.FlowSchema
	schemas.cache.View(schemas.kind, nil).List("", func(o resource.Object) bool {
		allSchemas = append(allSchemas, flowcontrol.FlowSchemas.Cast(o))
		return true
	})
	var allLevels []*flowcontrolv1.PriorityLevelConfiguration
	levels.cache.View(levels.kind, nil).List("", func(o resource.Object) bool {
		allLevels = append(allLevels, flowcontrol.PriorityLevelConfigurations.Cast(o))
		return true
	})
	s.flows.Configure(allSchemas, allLevels)
}

// keepFlows makes flow control follow its objects, and looks after them, until ctx ends. The status of each FlowSchema tells
// whether its priority level exists.
func (s *Server) keepFlows(ctx context.Context) {
	schemas, levels := s.flowRegistries()
	if schemas == nil {
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
	received := func() int64 { return schemas.cache.Figures().Received + levels.cache.Figures().Received }
	maintained := received() // the server did that before it was ready
	tick := time.NewTicker(maintainInterval)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if n := received(); n != maintained { // what it writes itself is looked at again
				if err = s.maintainFlows(ctx); err == nil {
					maintained = n
				}
			}
		case <-changed:
			if s.flows != nil {
				s.configureFlows()
				err = s.markDangling(ctx)
			}
		}
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("could not look after flow schemas and priority levels", "err", err)
		}
	}
}

// maintainFlows makes the objects that must or should exist, and corrects them: mandatory ones always, suggested ones unless a
// user took them over. It deletes those that were suggested once.
//
// See https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#maintenance-of-the-mandatory-and-suggested-configuration-objects.
func (s *Server) maintainFlows(ctx context.Context) error {
	if schemas, _ := s.flowRegistries(); schemas == nil {
		return nil
	}
	mandatorySchemas, mandatoryLevels := flowcontrol.Mandatory()
	schemas, levels := flowcontrol.Suggested()
	var all []flowObject
	for i, o := range append(mandatorySchemas, schemas...) {
		all = append(all, flowObject{flowcontrol.FlowSchemas.Kind, o, i < len(mandatorySchemas), func(have resource.Object) bool {
			return replaceSpec(&flowcontrol.FlowSchemas.Cast(have).Spec, o.Spec.DeepCopy())
		}})
	}
	for i, o := range append(mandatoryLevels, levels...) {
		all = append(all, flowObject{flowcontrol.PriorityLevelConfigurations.Kind, o, i < len(mandatoryLevels), func(have resource.Object) bool {
			level, want := flowcontrol.PriorityLevelConfigurations.Cast(have), o.Spec.DeepCopy()
			if want.Exempt != nil && level.Spec.Exempt != nil {
				want.Exempt = level.Spec.Exempt // which is the user's
			}
			return replaceSpec(&level.Spec, want)
		}})
	}
	problems := make([]error, len(all)+1)
	var wg sync.WaitGroup
	for i, o := range all {
		wg.Go(func() { problems[i] = s.maintainFlow(ctx, o) })
	}
	problems[len(all)] = s.dropSuggested(ctx, all)
	wg.Wait()
	return errors.Join(problems...)
}

// flowObject is an object of priority and fairness that the server looks after.
type flowObject struct {
	kind      *resource.Kind
	want      resource.Object
	mandatory bool
	correct   func(have resource.Object) bool // makes the spec as it shall be; true if it was not
}

func replaceSpec[T any](have, want *T) bool {
	if apiequality.Semantic.DeepEqual(have, want) {
		return false
	}
	*have = *want
	return true
}

func (s *Server) maintainFlow(ctx context.Context, f flowObject) error {
	objects, name := s.objects(), f.want.GetName()
	have, err := objects.Get(ctx, f.kind, "", name)
	if apierrors.IsNotFound(err) {
		_, err = objects.Do(ctx, &call.Request{Verb: "create", Kind: f.kind, Object: f.want, FieldManager: flowManager})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	if err != nil || !f.amend(have.DeepCopyObject().(resource.Object)) {
		return err
	}
	_, err = objects.Update(ctx, f.kind, "", name, false, func(o resource.Object) error {
		f.amend(o)
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil // the next time
	}
	return err
}

// amend corrects an object and says whether that was necessary.
func (f flowObject) amend(o resource.Object) bool {
	ours, given := f.mandatory, false
	was := o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]
	if !f.mandatory {
		if ours, given = was == "true", was == "true" || was == "false"; !given {
			ours = o.GetGeneration() == 1 // nobody has changed it
		}
	}
	changed := false
	if shall := strconv.FormatBool(ours); was != shall {
		annotations := maps.Clone(o.GetAnnotations())
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[flowcontrolv1.AutoUpdateAnnotationKey] = shall
		o.SetAnnotations(annotations)
		changed = true
	}
	return ours && f.correct(o) || changed
}

// dropSuggested deletes what the server looked after but does not know.
func (s *Server) dropSuggested(ctx context.Context, known []flowObject) error {
	for _, kind := range []*resource.Kind{flowcontrol.FlowSchemas.Kind, flowcontrol.PriorityLevelConfigurations.Kind} {
		var drop []resource.Object
		err := s.objects().List(ctx, kind, "", func(o resource.Object) bool {
			if o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true" && !slices.ContainsFunc(known, func(f flowObject) bool {
				return f.kind == kind && f.want.GetName() == o.GetName()
			}) {
				drop = append(drop, o)
			}
			return true
		})
		if err != nil {
			return err
		}
		for _, o := range drop {
			uid := o.GetUID()
			_, err := s.objects().Do(ctx, &call.Request{
				Verb: "delete", Kind: kind, Name: o.GetName(), Delete: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}},
			})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return err
			}
		}
	}
	return nil
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
