// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"

	"knarr.dev/api/core"
	kinds "knarr.dev/api/resource"
)

// limitAnnotation tells what limitRanger filled in.
const limitAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in the requests and limits of containers and refuses what is outside of a namespace's LimitRanges.
func limitRanger(reader Reader) Step {
	l := ranger{reader}
	return Step{Name: "LimitRanger", Mutate: l.fill, Validate: l.check}
}

type ranger struct{ reader Reader }

// items returns the limits of a namespace.
func (l ranger) items(ctx context.Context, namespace string) (items []corev1.LimitRangeItem, err error) {
	err = l.reader.List(ctx, core.LimitRanges.Kind, namespace, func(o kinds.Object) bool {
		items = append(items, core.LimitRanges.Cast(o).Spec.Limits...)
		return true
	})
	return items, err
}

func (l ranger) fill(ctx context.Context, r *Request) error {
	if !creates(r, core.Pods.Kind) {
		return nil
	}
	items, err := l.items(ctx, r.Namespace)
	if err != nil {
		return err
	}
	pod := core.Pods.Cast(r.Object)
	var told []string
	for _, item := range items {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for i := range pod.Spec.Containers {
			told = append(told, fillContainer(&pod.Spec.Containers[i], "container", &item)...)
		}
		for i := range pod.Spec.InitContainers {
			told = append(told, fillContainer(&pod.Spec.InitContainers[i], "init container", &item)...)
		}
	}
	if len(told) == 0 {
		return nil
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(told, "; ")
	return nil
}

// fillContainer returns what it set, in words.
func fillContainer(c *corev1.Container, what string, item *corev1.LimitRangeItem) []string {
	var told []string
	fill := func(to *corev1.ResourceList, from corev1.ResourceList, field string) {
		var set []string
		for name, quantity := range from {
			if _, ok := (*to)[name]; ok {
				continue
			}
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			(*to)[name] = quantity.DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			slices.Sort(set)
			told = append(told, strings.Join(set, ", ")+" "+field+" for "+what+" "+c.Name)
		}
	}
	fill(&c.Resources.Requests, item.DefaultRequest, "request")
	fill(&c.Resources.Limits, item.Default, "limit")
	return told
}

func (l ranger) check(ctx context.Context, r *Request) error {
	if r.Verb != "create" && (r.Verb != "update" || r.Subresource != "resize") {
		return nil
	}
	var problems []string
	switch o := r.Object.(type) {
	case *corev1.Pod:
		if r.Kind != core.Pods.Kind {
			return nil
		}
		items, err := l.items(ctx, r.Namespace)
		if err != nil {
			return err
		}
		for i := range items {
			problems = append(problems, checkPod(o, &items[i])...)
		}
	case *corev1.PersistentVolumeClaim:
		items, err := l.items(ctx, r.Namespace)
		if err != nil {
			return err
		}
		for i := range items {
			if items[i].Type == corev1.LimitTypePersistentVolumeClaim {
				problems = append(problems, checkClaim(o, &items[i])...)
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return forbidden(r, aggregate(problems))
}

func checkPod(pod *corev1.Pod, item *corev1.LimitRangeItem) (problems []string) {
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				problems = append(problems, checkLimits(item, list[i].Resources.Requests, list[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		options := podresources.PodResourcesOptions{}
		problems = checkLimits(item, podresources.PodRequests(pod, options), podresources.PodLimits(pod, options))
	}
	return problems
}

func checkClaim(claim *corev1.PersistentVolumeClaim, item *corev1.LimitRangeItem) (problems []string) {
	requests := claim.Spec.Resources.Requests
	for _, name := range sorted(item.Min) {
		problems = append(problems, minimum(item, name, requests, corev1.ResourceList{})...)
	}
	for _, name := range sorted(item.Max) {
		limit, request := item.Max[name], requests[name]
		if request.Cmp(limit) > 0 {
			problems = append(problems, fmt.Sprintf("maximum %s usage per %s is %s, but request is %s", name, item.Type, limit.String(), request.String()))
		}
	}
	return problems
}

// checkLimits applies the bounds of one item to what is asked for, in Kubernetes' words.
func checkLimits(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (problems []string) {
	for _, name := range sorted(item.Min) {
		problems = append(problems, minimum(item, name, requests, limits)...)
	}
	for _, name := range sorted(item.Max) {
		bound, request, limit := item.Max[name], requests[name], limits[name]
		_, limited := limits[name]
		about := fmt.Sprintf("maximum %s usage per %s is %s", name, item.Type, bound.String())
		switch {
		case !limited:
			problems = append(problems, about+".  No limit is specified")
		case limit.Cmp(bound) > 0:
			problems = append(problems, about+", but limit is "+limit.String())
		case request.Cmp(bound) > 0:
			problems = append(problems, about+", but request is "+request.String())
		}
	}
	for _, name := range sorted(item.MaxLimitRequestRatio) {
		if problem := ratio(item, name, requests[name], limits[name]); problem != "" {
			problems = append(problems, problem)
		}
	}
	return problems
}

func minimum(item *corev1.LimitRangeItem, name corev1.ResourceName, requests, limits corev1.ResourceList) []string {
	bound := item.Min[name]
	request, requested := requests[name]
	limit, limited := limits[name]
	about := fmt.Sprintf("minimum %s usage per %s is %s", name, item.Type, bound.String())
	switch {
	case !requested:
		return []string{about + ".  No request is specified"}
	case request.Cmp(bound) < 0:
		return []string{about + ", but request is " + request.String()}
	case limited && limit.Cmp(bound) < 0:
		return []string{about + ", but limit is " + limit.String()}
	}
	return nil
}

func ratio(item *corev1.LimitRangeItem, name corev1.ResourceName, request, limit resource.Quantity) string {
	bound := item.MaxLimitRequestRatio[name]
	about := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, item.Type, bound.String())
	switch {
	case request.IsZero():
		return about + ", but no request is specified or request is 0"
	case limit.IsZero():
		return about + ", but no limit is specified or limit is 0"
	}
	if got := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); got > bound.AsApproximateFloat64() {
		return about + fmt.Sprintf(", but provided ratio is %f", got)
	}
	return ""
}

func sorted(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}
