// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"
	features "k8s.io/component-helpers/nodedeclaredfeatures"
	podresources "k8s.io/component-helpers/resource"

	"knarr.dev/api/core"
)

// nodeOf is the node of a pod that is being changed; nil without an error if it has none.
func nodeOf(ctx context.Context, reader Reader, r *Request) (*corev1.Node, error) {
	name := core.Pods.Cast(r.Old).Spec.NodeName
	if name == "" {
		return nil, nil
	}
	o, err := reader.Get(ctx, core.Nodes.Kind, "", name)
	if apierrors.IsNotFound(err) {
		return nil, forbidden(r, fmt.Sprintf("node %q not found", name))
	}
	if err != nil {
		return nil, err
	}
	return core.Nodes.Cast(o), nil
}

// declaredFeatures lets a pod be changed only if its node says that it can do what the change needs.
//
// See https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/.
func declaredFeatures(reader Reader) Step {
	return Step{Name: "NodeDeclaredFeatureValidator", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind != core.Pods.Kind || r.Verb != "update" || r.Subresource != "" && r.Subresource != "resize" {
			return nil
		}
		pod, old := core.Pods.Cast(r.Object), core.Pods.Cast(r.Old)
		framework := features.DefaultFramework
		needed, err := framework.InferForPodUpdate(&features.PodInfo{Spec: &old.Spec, Status: &old.Status}, &features.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, version.MajorMinor(1, 36))
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if needed.IsEmpty() {
			return nil
		}
		node, err := nodeOf(ctx, reader, r)
		if err != nil || node == nil {
			return err
		}
		match, err := framework.MatchNode(needed, node)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		if !match.IsMatch {
			return forbidden(r, fmt.Sprintf("pod update requires features %s which are not available on node %q", strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
		}
		return nil
	}}
}

// podResize refuses to let a pod grow beyond what its node can ever give.
func podResize(reader Reader) Step {
	return Step{Name: "PodResizeValidator", Validate: func(ctx context.Context, r *Request) error {
		if r.Kind != core.Pods.Kind || r.Verb != "update" || r.Subresource != "resize" {
			return nil
		}
		node, err := nodeOf(ctx, reader, r)
		if err != nil || node == nil {
			return err
		}
		requests := podresources.PodRequests(core.Pods.Cast(r.Object), podresources.PodResourcesOptions{})
		var short []string
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			wanted, there := requests[name], node.Status.Allocatable[name]
			if wanted.Cmp(there) <= 0 {
				continue
			}
			amounts := [2]int64{wanted.Value(), there.Value()}
			if name == corev1.ResourceCPU {
				amounts = [2]int64{wanted.MilliValue(), there.MilliValue()}
			}
			short = append(short, fmt.Sprintf("%s, requested: %d, allocatable: %d", name, amounts[0], amounts[1]))
		}
		if len(short) > 0 {
			return forbidden(r, "node didn't have enough allocatable resources: "+strings.Join(short, "; "))
		}
		return nil
	}}
}
