// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/api/core"
	"knarr.dev/api/node"
)

// runtimeClass gives pods the overhead of their runtime class and sends them to its nodes.
func runtimeClass(reader Reader) Step {
	classOf := func(ctx context.Context, r *Request, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
		if pod.Spec.RuntimeClassName == nil {
			return nil, nil
		}
		name := *pod.Spec.RuntimeClassName
		if name == "" {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: "resource name may not be empty"}}
		}
		o, err := reader.Get(ctx, node.RuntimeClasses.Kind, "", name)
		if apierrors.IsNotFound(err) {
			return nil, forbidden(r, fmt.Sprintf("pod rejected: RuntimeClass %q not found", name))
		}
		if err != nil {
			return nil, err
		}
		return node.RuntimeClasses.Cast(o), nil
	}
	return Step{
		Name: "RuntimeClass",
		Mutate: func(ctx context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) {
				return nil
			}
			pod := core.Pods.Cast(r.Object)
			class, err := classOf(ctx, r, pod)
			if err != nil || class == nil {
				return err
			}
			if class.Overhead != nil {
				if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
					return forbidden(r, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
				pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
			}
			return placeByClass(r, pod, class.Scheduling)
		},
		Validate: func(ctx context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) {
				return nil
			}
			pod := core.Pods.Cast(r.Object)
			class, err := classOf(ctx, r, pod)
			if err != nil || pod.Spec.Overhead == nil {
				return err
			}
			if class == nil || class.Overhead == nil {
				return forbidden(r, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
			}
			if !equality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
				return forbidden(r, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
			}
			return nil
		},
	}
}

// placeByClass adds the node selector and the tolerations of a class to those of the pod.
func placeByClass(r *Request, pod *corev1.Pod, s *nodev1.Scheduling) error {
	if s == nil {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		want := s.NodeSelector[key]
		if have, ok := pod.Spec.NodeSelector[key]; ok && have != want {
			return forbidden(r, fmt.Sprintf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, want, key, have))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = want
	}
	pod.Spec.Tolerations = mergeTolerations(slices.Concat(pod.Spec.Tolerations, s.Tolerations))
	return nil
}

// mergeTolerations leaves out what another toleration of the list covers; of equal ones it keeps the first.
func mergeTolerations(all []corev1.Toleration) (kept []corev1.Toleration) {
	for i, t := range all {
		covered := false
		for j, other := range all {
			covered = covered || i != j && covers(other, t) && (j < i || !covers(t, other))
		}
		if !covered {
			kept = append(kept, t)
		}
	}
	return kept
}

// covers tells whether a tolerates whatever b does.
func covers(a, b corev1.Toleration) bool {
	if core.SameToleration(a, b) {
		return true
	}
	if a.Key != b.Key && (a.Key != "" || a.Operator != corev1.TolerationOpExists) || a.Effect != b.Effect && a.Effect != "" {
		return false
	}
	if a.Effect == corev1.TaintEffectNoExecute && a.TolerationSeconds != nil &&
		(b.TolerationSeconds == nil || *b.TolerationSeconds > *a.TolerationSeconds) {
		return false
	}
	if a.Operator == corev1.TolerationOpExists {
		return true
	}
	equals := func(o corev1.TolerationOperator) bool { return o == "" || o == corev1.TolerationOpEqual }
	return equals(a.Operator) && equals(b.Operator) && a.Value == b.Value
}
