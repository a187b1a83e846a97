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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/api/call"
	"knarr.dev/api/core"
	"knarr.dev/api/resource"
)

// plain is an error without a reason, as Kubernetes answers where a plug-in fails rather than refuses.
func plain(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: text}}
}

// namespaceAutoProvision makes the namespace of an object that is created.
func namespaceAutoProvision(reader Reader, writer Writer) Step {
	return Step{Name: "NamespaceAutoProvision", Mutate: func(ctx context.Context, r *Request) error {
		if r.Verb != "create" || r.Namespace == "" || r.Kind.Scope == resource.Cluster || r.DryRun || r.Kind.Virtual {
			return nil
		}
		if _, err := reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace); !apierrors.IsNotFound(err) {
			return err
		}
		_, err := writer.Do(ctx, &call.Request{
			Verb: "create", Kind: core.Namespaces.Kind, Name: r.Namespace, Object: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.Namespace}},
		})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}}
}

// namespaceExists refuses what names a namespace that does not exist.
func namespaceExists(reader Reader) Step {
	return Step{Name: "NamespaceExists", Validate: func(ctx context.Context, r *Request) error {
		if r.Namespace == "" || r.Kind == core.Namespaces.Kind || r.Kind.Scope == resource.Cluster {
			return nil
		}
		_, err := reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
		return err
	}}
}

// antiAffinityTopology lets pods that insist on being apart be so from nodes only.
func antiAffinityTopology() Step {
	return Step{Name: "LimitPodHardAntiAffinityTopology", Validate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Pods.Kind) && !updates(r, core.Pods.Kind) {
			return nil
		}
		affinity := core.Pods.Cast(r.Object).Spec.Affinity
		if affinity == nil || affinity.PodAntiAffinity == nil {
			return nil
		}
		for _, term := range affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			if term.TopologyKey != corev1.LabelHostname {
				return forbidden(r, fmt.Sprintf("affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey %s but only key %s is allowed", term.TopologyKey, corev1.LabelHostname))
			}
		}
		return nil
	}}
}

// denyExternalIPs refuses Services new external addresses.
func denyExternalIPs() Step {
	return Step{Name: "DenyServiceExternalIPs", Validate: func(_ context.Context, r *Request) error {
		if !creates(r, core.Services.Kind) && !updates(r, core.Services.Kind) {
			return nil
		}
		var had []string
		if r.Verb == "update" {
			had = core.Services.Cast(r.Old).Spec.ExternalIPs
		}
		for _, ip := range core.Services.Cast(r.Object).Spec.ExternalIPs {
			if !slices.Contains(had, ip) {
				return forbidden(r, "Use of external IPs is denied by admission control")
			}
		}
		return nil
	}}
}

// alwaysDeny refuses everything.
func alwaysDeny() Step {
	return Step{Name: "AlwaysDeny", Validate: func(_ context.Context, r *Request) error {
		return forbidden(r, "admission control is denying all modifications")
	}}
}

// selectorAnnotation of a Namespace is the node selector of its pods.
const selectorAnnotation = "scheduler.alpha.kubernetes.io/node-selector"

// clusterSelector is the key of the node selector of namespaces without their own.
const clusterSelector = "clusterDefaultNodeSelector"

// podNodeSelector gives pods the node selector of their namespace. configured has the selectors that pods of a namespace are bound to,
// and the one for namespaces without annotation.
func podNodeSelector(reader Reader, configured map[string]string) Step {
	return Step{
		Name: "PodNodeSelector",
		Mutate: func(ctx context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) {
				return nil
			}
			o, err := reader.Get(ctx, core.Namespaces.Kind, "", r.Namespace)
			if err != nil {
				return err
			}
			text, ok := o.GetAnnotations()[selectorAnnotation]
			if !ok {
				text = configured[clusterSelector]
			}
			wanted, err := labels.ConvertSelectorToLabelsMap(text)
			if err != nil {
				return plain(err.Error())
			}
			pod := core.Pods.Cast(r.Object)
			for key, value := range wanted {
				if have, ok := pod.Spec.NodeSelector[key]; ok && have != value {
					return forbidden(r, "pod node label selector conflicts with its namespace node label selector")
				}
			}
			if len(wanted) > 0 {
				all := maps.Clone(map[string]string(wanted))
				maps.Copy(all, pod.Spec.NodeSelector)
				pod.Spec.NodeSelector = all
			}
			return nil
		},
		Validate: func(_ context.Context, r *Request) error {
			if !creates(r, core.Pods.Kind) || configured[r.Namespace] == "" {
				return nil
			}
			allowed, err := labels.ConvertSelectorToLabelsMap(configured[r.Namespace])
			if err != nil {
				return plain(err.Error())
			}
			for key, value := range core.Pods.Cast(r.Object).Spec.NodeSelector {
				if have, ok := allowed[key]; !ok || have != value {
					return forbidden(r, "pod node label selector labels conflict with its namespace whitelist")
				}
			}
			return nil
		},
	}
}
