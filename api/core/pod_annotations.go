// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Annotations of pods that mean something, most of them to earlier versions of Kubernetes.
const (
	tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"
	seccompAnnotation     = "seccomp.security.alpha.kubernetes.io/pod"
	seccompContainer      = "container.seccomp.security.alpha.kubernetes.io/"
	seccompLocal          = "localhost/"
	apparmorAnnotation    = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
)

// dropInitAnnotations removes the form that init containers had before they had a field.
func dropInitAnnotations(annotations map[string]string) map[string]string {
	if len(annotations) == 0 {
		return annotations
	}
	for _, key := range []string{
		"pod.alpha.kubernetes.io/init-containers", "pod.beta.kubernetes.io/init-containers",
		"pod.alpha.kubernetes.io/init-container-statuses", "pod.beta.kubernetes.io/init-container-statuses",
	} {
		delete(annotations, key)
	}
	if len(annotations) == 0 {
		return nil
	}
	return annotations
}

// validatePodAnnotations checks the annotations of a pod or a template that mean something.
func validatePodAnnotations(annotations map[string]string, s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	if len(annotations) == 0 {
		return nil
	}
	if value, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && s.NodeName == "" {
		problems = append(problems, field.Invalid(at.Key(corev1.MirrorPodAnnotationKey), value, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if text := annotations[tolerationsAnnotation]; text != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			why := strings.ReplaceAll(err.Error(), "v1.Toleration", "core.Toleration") // as Kubernetes calls its own
			problems = append(problems, field.Invalid(at, tolerationsAnnotation, why))
		} else {
			problems = append(problems, validateTolerations(list, at.Child(tolerationsAnnotation))...)
		}
	}
	if cost, ok := annotations[corev1.PodDeletionCost]; ok {
		if n, err := strconv.ParseInt(cost, 10, 32); err != nil || cost != strconv.FormatInt(n, 10) {
			problems = append(problems, field.Invalid(at.Key(corev1.PodDeletionCost), cost, "must be a 32bit integer"))
		}
	}
	if profile, ok := annotations[seccompAnnotation]; ok {
		problems = append(problems, seccompText(profile, at.Child(seccompAnnotation))...)
	}
	keys := profiles(annotations)
	for _, key := range keys {
		if strings.HasPrefix(key, seccompContainer) {
			problems = append(problems, seccompText(annotations[key], at.Child(key))...)
		}
	}
	for _, key := range keys {
		if name, ok := strings.CutPrefix(key, apparmorAnnotation); ok {
			problems = append(problems, apparmorText(name, annotations[key], s, at.Key(key))...)
		}
	}
	return problems
}

// profiles are the annotations that name profiles of single containers, in order.
func profiles(annotations map[string]string) (keys []string) {
	for key := range annotations {
		if strings.HasPrefix(key, seccompContainer) || strings.HasPrefix(key, apparmorAnnotation) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func seccompText(profile string, at *field.Path) field.ErrorList {
	if file, local := strings.CutPrefix(profile, seccompLocal); local {
		return insidePath(file, at)
	}
	if seccompType(profile) == "" {
		return field.ErrorList{field.Invalid(at, profile, "must be a valid seccomp profile")}
	}
	return nil
}

// seccompType is the type of a profile that an annotation names.
func seccompType(profile string) corev1.SeccompProfileType {
	switch {
	case profile == corev1.DeprecatedSeccompProfileDockerDefault || profile == corev1.SeccompProfileRuntimeDefault:
		return corev1.SeccompProfileTypeRuntimeDefault
	case profile == "unconfined":
		return corev1.SeccompProfileTypeUnconfined
	case strings.HasPrefix(profile, seccompLocal):
		return corev1.SeccompProfileTypeLocalhost
	}
	return ""
}

func apparmorText(container, profile string, s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	known := containerNamed(s.Containers, container) != nil || containerNamed(s.InitContainers, container) != nil ||
		slices.ContainsFunc(s.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == container })
	if !known {
		problems = append(problems, field.Invalid(at, container, "container not found"))
	}
	if profile != "" && profile != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && profile != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
		!strings.HasPrefix(profile, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
		problems = append(problems, field.Invalid(at, profile, fmt.Sprintf("invalid AppArmor profile name: %q", profile)))
	}
	return problems
}

// validateProfiles checks that annotations and fields of a new pod name the same profiles.
func validateProfiles(p *corev1.Pod) (problems field.ErrorList) {
	if _, ok := p.Annotations[seccompAnnotation]; !ok && len(profiles(p.Annotations)) == 0 {
		return nil
	}
	at := field.NewPath("spec")
	seccomp := func(profile string, f *corev1.SeccompProfile, at *field.Path) {
		want := seccompType(profile)
		if f == nil || want == "" {
			return
		}
		if want != f.Type {
			problems = append(problems, field.Forbidden(at.Child("type"), "seccomp type in annotation and field must match"))
		} else if want == corev1.SeccompProfileTypeLocalhost && (f.LocalhostProfile == nil || *f.LocalhostProfile != strings.TrimPrefix(profile, seccompLocal)) {
			problems = append(problems, field.Forbidden(at.Child("localhostProfile"), "seccomp profile in annotation and field must match"))
		}
	}
	if c := p.Spec.SecurityContext; c != nil {
		seccomp(p.Annotations[seccompAnnotation], c.SeccompProfile, at.Child("securityContext", "seccompProfile"))
	}
	for _, l := range []struct {
		name string
		list []corev1.Container
	}{{"initContainers", p.Spec.InitContainers}, {"containers", p.Spec.Containers}} {
		for i := range l.list {
			c := &l.list[i]
			if c.SecurityContext == nil {
				continue
			}
			at := at.Child(l.name).Index(i).Child("securityContext")
			seccomp(p.Annotations[seccompContainer+c.Name], c.SecurityContext.SeccompProfile, at.Child("seccompProfile"))
			want, have := appArmorOf(p.Annotations[apparmorAnnotation+c.Name]), c.SecurityContext.AppArmorProfile
			if annotated := p.Annotations[apparmorAnnotation+c.Name]; want == nil && annotated == corev1.DeprecatedAppArmorBetaProfileNamePrefix {
				want = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: new(string)}
			}
			switch {
			case want == nil || have == nil:
			case want.Type != have.Type:
				problems = append(problems, field.Forbidden(at.Child("appArmorProfile", "type"), "apparmor type in annotation and field must match"))
			case want.LocalhostProfile != nil && (have.LocalhostProfile == nil || *want.LocalhostProfile != *have.LocalhostProfile):
				problems = append(problems, field.Forbidden(at.Child("appArmorProfile", "localhostProfile"), "apparmor profile in annotation and field must match"))
			}
		}
	}
	return problems
}

// validateAnnotationChange keeps what says where a pod comes from and how it is confined.
func validateAnnotationChange(p, old *corev1.Pod) (problems field.ErrorList) {
	at := field.NewPath("metadata", "annotations")
	refuse := func(key, verb string) {
		switch {
		case strings.HasPrefix(key, apparmorAnnotation):
			problems = append(problems, field.Forbidden(at.Key(key), "may not "+verb+" AppArmor annotations"))
		case key == corev1.MirrorPodAnnotationKey:
			problems = append(problems, field.Forbidden(at.Key(key), "may not "+verb+" mirror pod annotation"))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(old.Annotations)) {
		if value, ok := p.Annotations[key]; !ok || value != old.Annotations[key] {
			refuse(key, "remove or update")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.Annotations)) {
		if _, ok := old.Annotations[key]; !ok {
			refuse(key, "add")
		}
	}
	return append(problems, validatePodAnnotations(p.Annotations, &p.Spec, at)...)
}
