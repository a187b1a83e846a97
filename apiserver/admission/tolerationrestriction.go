// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/core"
)

// Annotations of Namespaces with the tolerations of their pods, in JSON.
const (
	tolerationsAnnotation = "scheduler.alpha.kubernetes.io/defaultTolerations"
	allowedAnnotation     = "scheduler.alpha.kubernetes.io/tolerationsWhitelist"
)

// Tolerations are those that pods get, and those that they may have, in namespaces that say nothing themselves.
type Tolerations struct {
	Default   []corev1.Toleration `json:"default,omitempty"`
	Whitelist []corev1.Toleration `json:"whitelist,omitempty"`
}

// podTolerationRestriction gives pods the tolerations of their namespace and refuses those that the namespace does not allow.
func podTolerationRestriction(reader Reader, cfg Tolerations) Step {
	read := func(ctx context.Context, r *Request, annotation string, otherwise []corev1.Toleration) (found []corev1.Toleration, err error) {
		o, err := reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
		if err != nil {
			return nil, err
		}
		text, ok := o.GetAnnotations()[annotation]
		if !ok {
			return otherwise, nil
		}
		if text == "" {
			return nil, nil
		}
		if err := json.Unmarshal([]byte(text), &found); err != nil {
			return nil, plain(err.Error())
		}
		return found, nil
	}
	return Step{
		Name: "PodTolerationRestriction",
		Mutate: func(ctx context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
				return nil
			}
			pod := core.Pods.Cast(r.Object)
			all := slices.Clone(pod.Spec.Tolerations)
			if r.Verb == "create" {
				more, err := read(ctx, r, tolerationsAnnotation, cfg.Default)
				if err != nil {
					return err
				}
				all = append(all, more...)
			}
			if core.QOS(&pod.Spec) != corev1.PodQOSBestEffort {
				all = append(all, corev1.Toleration{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
			}
			pod.Spec.Tolerations = mergeTolerations(all)
			return nil
		},
		Validate: func(ctx context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
				return nil
			}
			allowed, err := read(ctx, r, allowedAnnotation, cfg.Whitelist)
			if err != nil || len(allowed) == 0 {
				return err
			}
			for _, t := range core.Pods.Cast(r.Object).Spec.Tolerations {
				if !slices.ContainsFunc(allowed, func(a corev1.Toleration) bool { return covers(a, t) }) {
					return plain("pod tolerations (possibly merged with namespace default tolerations) conflict with its namespace whitelist")
				}
			}
			return nil
		},
	}
}

// extendedResourceToleration lets pods that ask for an extended resource onto the nodes that are kept for it.
func extendedResourceToleration() Step {
	return Step{Name: "ExtendedResourceToleration", Mutate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
			return nil
		}
		pod := core.Pods.Cast(r.Object)
		names := map[string]bool{}
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				for name := range list[i].Resources.Requests {
					if core.ExtendedResource(name) {
						names[string(name)] = true
					}
				}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			wanted := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
			same := func(t corev1.Toleration) bool {
				return t.Key == name && t.Operator == wanted.Operator && t.Effect == wanted.Effect && t.Value == ""
			}
			if !slices.ContainsFunc(pod.Spec.Tolerations, same) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, wanted)
			}
		}
		return nil
	}}
}
