// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/api/networking"
	"knarr.dev/api/resource"
)

// defaultIngressClass gives Ingresses that name no class the default one: of several the newest, of those the first by name.
func defaultIngressClass(reader Reader) Step {
	return Step{Name: "DefaultIngressClass", Mutate: func(ctx context.Context, r *Request) error {
		if !creates(r, networking.Ingresses.Kind) {
			return nil
		}
		ingress := networking.Ingresses.Cast(r.Object)
		if _, annotated := ingress.Annotations[networking.ClassAnnotation]; annotated || ingress.Spec.IngressClassName != nil {
			return nil
		}
		var found *networkingv1.IngressClass
		err := reader.List(ctx, networking.IngressClasses.Kind, "", func(o resource.Object) bool {
			c := networking.IngressClasses.Cast(o)
			if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" &&
				(found == nil || found.CreationTimestamp.Before(&c.CreationTimestamp)) {
				found = c
			}
			return true
		})
		if err != nil || found == nil {
			return notServed(err)
		}
		name := found.Name
		ingress.Spec.IngressClassName = &name
		return nil
	}}
}
