// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodCreate returns the problems that only new pods have.
func validatePodCreate(p *corev1.Pod) (problems field.ErrorList) {
	if len(p.Spec.EphemeralContainers) > 0 {
		problems = append(problems, field.Forbidden(field.NewPath("spec", "ephemeralContainers"), "cannot be set on create"))
	}
	if len(p.Spec.SchedulingGates) > 0 && p.Spec.NodeName != "" {
		problems = append(problems, field.Forbidden(field.NewPath("spec", "nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	problems = append(problems, validateProfiles(p)...)
	for i, v := range p.Spec.Volumes {
		if p.Spec.ServiceAccountName == "" && v.Projected != nil && p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					problems = append(problems, field.Forbidden(field.NewPath("spec", "volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	if p.Spec.ServiceAccountName != "" && p.Annotations[corev1.MirrorPodAnnotationKey] != "" && p.Spec.NodeName == "" {
		problems = append(problems, field.Forbidden(field.NewPath("spec", "serviceAccountName"), "must not be set for mirror pods"))
	}
	return problems
}

// validatePodUpdate lets images, the deadline, gates and further tolerations change, and nothing else of the spec.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	var problems field.ErrorList
	if !maps.Equal(p.Annotations, old.Annotations) {
		problems = validateAnnotationChange(p, old)
	}
	if SamePodSpec(&p.Spec, &old.Spec) {
		return problems
	}
	at := field.NewPath("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(problems, field.Forbidden(at.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(problems, field.Forbidden(at.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	for i := range p.Spec.Containers {
		problems = append(problems, emptiedImage(&p.Spec.Containers[i], &old.Spec.Containers[i], at.Child("containers").Index(i))...)
	}
	for i := range p.Spec.InitContainers {
		problems = append(problems, emptiedImage(&p.Spec.InitContainers[i], &old.Spec.InitContainers[i], at.Child("initContainers").Index(i))...)
	}
	problems = append(problems, deadlineChange(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))...)
	problems = append(problems, tolerationChange(p.Spec.Tolerations, old.Spec.Tolerations, at.Child("tolerations"))...)
	problems = append(problems, gateChange(&p.Spec, &old.Spec, at)...)
	munged := withoutMutable(p, old)
	if equality.Semantic.DeepEqual(munged, &old.Spec) {
		return problems
	}
	return append(problems, field.Forbidden(at, "pod updates may not change fields other than `spec.containers[*].image`,"+
		"`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"+
		"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"+diff.Diff(shown{&old.Spec}, shown{munged})))
}

func emptiedImage(c, old *corev1.Container, at *field.Path) field.ErrorList {
	if c.Image == "" && old.Image != "" {
		return field.ErrorList{field.Required(at.Child("image"), "")}
	}
	return nil
}

func deadlineChange(now, old *int64, at *field.Path) field.ErrorList {
	switch {
	case now == nil && old != nil:
		return field.ErrorList{field.Invalid(at, nil, "must not update from a positive integer to nil value")}
	case now == nil:
	case *now < 0 || *now > 1<<31-1:
		return field.ErrorList{field.Invalid(at, *now, validation.InclusiveRangeError(0, 1<<31-1))}
	case old != nil && *now > *old:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}
	}
	return nil
}

func tolerationChange(now, old []corev1.Toleration, at *field.Path) (problems field.ErrorList) {
	for _, t := range old {
		if !slices.ContainsFunc(now, func(n corev1.Toleration) bool { return t.MatchToleration(&n) }) {
			return append(problems, field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	return append(problems, validateTolerations(now, at)...) // again, as Kubernetes does
}

// gateChange lets gates go, never come, and while there are gates lets placement become narrower.
func gateChange(now, old *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	for i, g := range now.SchedulingGates {
		if !slices.Contains(old.SchedulingGates, g) {
			problems = append(problems, field.Forbidden(at.Child("schedulingGates").Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
		}
	}
	if len(old.SchedulingGates) == 0 {
		return problems
	}
	for key, value := range old.NodeSelector {
		if v, ok := now.NodeSelector[key]; !ok || v != value {
			problems = append(problems, field.Invalid(at.Child("nodeSelector"), now.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	terms := at.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	return append(problems, narrower(requiredTerms(now), requiredTerms(old), terms)...)
}

func requiredTerms(s *corev1.PodSpec) []corev1.NodeSelectorTerm {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// narrower checks that terms still ask for all that they asked for; where there were none, some may come.
func narrower(now, old []corev1.NodeSelectorTerm, at *field.Path) (problems field.ErrorList) {
	if len(old) == 0 {
		return nil
	}
	if len(now) != len(old) {
		return field.ErrorList{field.Invalid(at, shown{now}, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	within := func(old, now []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(old) && equality.Semantic.DeepEqual(now[:len(old)], old)
	}
	for i := range old {
		empty := len(old[i].MatchExpressions)+len(old[i].MatchFields) == 0
		grown := len(now[i].MatchExpressions)+len(now[i].MatchFields) > 0
		if empty && grown || !within(old[i].MatchExpressions, now[i].MatchExpressions) || !within(old[i].MatchFields, now[i].MatchFields) {
			problems = append(problems, field.Invalid(at.Index(i), shown{now[i]}, "only additions are allowed (no mutations or deletions)"))
		}
	}
	return problems
}

// withoutMutable is the new spec with every field that may change put back.
func withoutMutable(p, old *corev1.Pod) *corev1.PodSpec {
	munged := p.Spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	munged.Tolerations = old.Spec.Tolerations
	munged.SchedulingGates = old.Spec.SchedulingGates
	if now, was := munged.TerminationGracePeriodSeconds, old.Spec.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		munged.TerminationGracePeriodSeconds = was
	}
	if len(old.Spec.SchedulingGates) > 0 { // placement may become narrower while a pod is gated
		munged.NodeSelector = old.Spec.NodeSelector
		if munged.Affinity == nil && old.Spec.Affinity != nil && *old.Spec.Affinity == (corev1.Affinity{NodeAffinity: old.Spec.Affinity.NodeAffinity}) {
			munged.Affinity = old.Spec.Affinity.DeepCopy()
		}
		if munged.Affinity != nil {
			munged.Affinity.NodeAffinity = nil
			if old.Spec.Affinity != nil {
				munged.Affinity.NodeAffinity = old.Spec.Affinity.NodeAffinity
			} else if *munged.Affinity == (corev1.Affinity{}) {
				munged.Affinity = nil
			}
		}
	}
	return munged
}

// ResizePod copies into pod, a copy of the stored one, what its resize subresource may change of the body, and returns
// what it may not.
func ResizePod(body, pod *corev1.Pod) field.ErrorList {
	at, old := field.NewPath("spec"), pod.DeepCopy()
	pod.Spec.Containers = resized(body.Spec.Containers, pod.Spec.Containers)
	pod.Spec.InitContainers = resized(body.Spec.InitContainers, pod.Spec.InitContainers)
	pod.Spec.Resources = body.Spec.Resources
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			defaultRequests(&list[i].Resources)
		}
	}
	moved := append(movedContainers(body.Spec.Containers, old.Spec.Containers, "containers"),
		movedContainers(body.Spec.InitContainers, old.Spec.InitContainers, "initContainers")...)
	if len(moved) == 0 && equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return nil
	}
	pod.Generation++
	problems := validatePodSpec(&pod.Spec, true, at)
	if was, now := QOS(&old.Spec), QOS(&pod.Spec); was != now {
		problems = append(problems, field.Invalid(at, was, "Pod QOS Class may not change as a result of resizing"))
	}
	if len(moved) > 0 {
		return append(problems, moved...)
	}
	for i := range pod.Spec.Containers {
		problems = append(problems, removedResources(&pod.Spec.Containers[i].Resources, &old.Spec.Containers[i].Resources, at.Child("containers").Index(i).Child("resources"))...)
	}
	kept := pod.Spec.DeepCopy()
	for i := range kept.Containers {
		keepScalable(&kept.Containers[i].Resources, &old.Spec.Containers[i].Resources)
	}
	for i := range kept.InitContainers {
		keepScalable(&kept.InitContainers[i].Resources, &old.Spec.InitContainers[i].Resources)
	}
	if kept.Resources != nil {
		was := &corev1.ResourceRequirements{}
		if old.Spec.Resources != nil {
			was = old.Spec.Resources
		}
		if keepScalable(kept.Resources, was); old.Spec.Resources == nil && equality.Semantic.DeepEqual(kept.Resources, was) {
			kept.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(kept, &old.Spec) {
		problems = append(problems, field.Forbidden(at, "only cpu and memory resources are mutable"))
	}
	return problems
}

// resized are the containers that there are with the resources that others of the same names ask for; if their number is another one,
// there is nothing to take over.
func resized(asked, have []corev1.Container) []corev1.Container {
	if len(asked) != len(have) {
		return asked
	}
	for i := range have {
		if asked[i].Name == have[i].Name {
			have[i].Resources, have[i].ResizePolicy = asked[i].Resources, asked[i].ResizePolicy
		}
	}
	return have
}

// movedContainers refuses other containers than there were.
func movedContainers(now, old []corev1.Container, name string) (problems field.ErrorList) {
	at := field.NewPath("spec", name)
	if len(now) != len(old) {
		return field.ErrorList{field.Forbidden(at, name+" may not be added or removed on resize")}
	}
	for i := range now {
		if now[i].Name != old[i].Name {
			problems = append(problems, field.Forbidden(at.Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
		}
	}
	return problems
}

func removedResources(r, old *corev1.ResourceRequirements, at *field.Path) (problems field.ErrorList) {
	for _, l := range []struct {
		name     string
		now, was corev1.ResourceList
	}{{"requests", r.Requests, old.Requests}, {"limits", r.Limits, old.Limits}} {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			_, had := l.was[name]
			if _, has := l.now[name]; had && !has {
				problems = append(problems, field.Forbidden(at.Child(l.name), "resource "+l.name+" cannot be removed"))
				break
			}
		}
	}
	return problems
}

// keepScalable puts cpu and memory back to what they were.
func keepScalable(r, old *corev1.ResourceRequirements) {
	keep := func(now *corev1.ResourceList, old corev1.ResourceList) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			q, had := old[name]
			switch {
			case !had:
				delete(*now, name)
			case *now == nil:
				*now = corev1.ResourceList{name: q}
			default:
				(*now)[name] = q
			}
		}
		if len(*now) == 0 && old == nil {
			*now = nil
		}
	}
	keep(&r.Limits, old.Limits)
	keep(&r.Requests, old.Requests)
}

// SetEphemeral puts ephemeral containers into pod, a copy of the stored one; those that it has may neither go nor change.
func SetEphemeral(pod *corev1.Pod, containers []corev1.EphemeralContainer) field.ErrorList {
	at := field.NewPath("spec", "ephemeralContainers")
	wanted := map[string]*corev1.EphemeralContainer{}
	for i := range containers {
		wanted[containers[i].Name] = &containers[i]
	}
	old := pod.Spec.EphemeralContainers
	pod.Spec.EphemeralContainers = containers
	problems := validatePodSpec(&pod.Spec, true, field.NewPath("spec"))
	if len(problems) > 0 {
		return problems
	}
	for i := range old {
		have := &old[i]
		switch want := wanted[have.Name]; {
		case want == nil:
			problems = append(problems, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", have.Name)))
		case !equality.Semantic.DeepEqual(want, have):
			problems = append(problems, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%s", have.Name, diff.Diff(shown{have}, shown{want}))))
		}
	}
	if !equality.Semantic.DeepEqual(old, containers) {
		pod.Generation++
	}
	return problems
}

// roundUp rounds quantities up to thousandths, the finest that are kept.
func roundUp(list corev1.ResourceList) {
	for name, q := range list {
		if q.RoundUp(resource.Milli) {
			continue
		}
		list[name] = q
	}
}

// samePodIPs keeps podIP and the first of podIPs the same; a writer that changed only podIP means that.
func samePodIPs(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// syncAppArmor brings the old annotations of new pods into the field that took their place.
func syncAppArmor(meta *metav1.ObjectMeta, s *corev1.PodSpec) {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range list {
			c := &list[i]
			value, ok := meta.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
			if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
				continue
			}
			if p := appArmorOf(value); p != nil {
				if c.SecurityContext == nil {
					c.SecurityContext = &corev1.SecurityContext{}
				}
				c.SecurityContext.AppArmorProfile = p
			}
		}
	}
}

func appArmorOf(value string) *corev1.AppArmorProfile {
	switch value {
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	}
	prefix := corev1.DeprecatedAppArmorBetaProfileNamePrefix
	if len(value) > len(prefix) && value[:len(prefix)] == prefix {
		name := value[len(prefix):]
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	return nil
}
