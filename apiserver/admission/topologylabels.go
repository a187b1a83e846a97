// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/api/core"
)

// podTopologyLabels gives pods the zone and region of their node, as labels, when they get a node: through the binding, or
// at once if they come with one.
func podTopologyLabels(reader Reader) Step {
	return Step{Name: "PodTopologyLabels", Mutate: func(ctx context.Context, r *Request) error {
		name := ""
		if r.Kind != core.Pods.Kind || r.Verb != "create" {
			return nil
		}
		switch o := any(r.Object).(type) {
		case *corev1.Pod:
			if r.Subresource == "" {
				name = o.Spec.NodeName
			}
		case *corev1.Binding:
			if o.Target.Kind == "" || o.Target.Kind == "Node" {
				name = o.Target.Name
			}
		}
		if name == "" {
			return nil
		}
		node, err := reader.Get(ctx, core.Nodes.Kind, "", name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return apierrors.NewInternalError(errors.New("read the node of a pod: " + err.Error()))
		}
		labels := r.Object.GetLabels()
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			value, ok := node.GetLabels()[key]
			if !ok {
				continue
			}
			if labels == nil {
				labels = map[string]string{}
			}
			labels[key] = value
		}
		r.Object.SetLabels(labels)
		return nil
	}}
}
