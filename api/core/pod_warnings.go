// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podWarnings(p *corev1.Pod) []string {
	if len(podSpecWarnings(nil, &p.Spec)) == 0 && len(annotationWarnings(p.Annotations, &p.Spec, nil)) == 0 { // paths cost more than looking
		return nil
	}
	return append(PodWarnings(field.NewPath("spec"), &p.Spec), annotationWarnings(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))...)
}

// TemplateWarnings are those of the pod template at a path, such as spec.template.
func TemplateWarnings(at *field.Path, t *corev1.PodTemplateSpec) []string {
	return append(PodWarnings(under(at, "spec"), &t.Spec), annotationWarnings(t.Annotations, &t.Spec, under(at, "metadata", "annotations"))...)
}

// PodWarnings says what in a pod's spec is allowed but hardly meant, or deprecated.
func PodWarnings(at *field.Path, s *corev1.PodSpec) []string {
	if len(podSpecWarnings(nil, s)) == 0 { // paths cost more than looking
		return nil
	}
	return podSpecWarnings(at, s)
}

func podSpecWarnings(at *field.Path, s *corev1.PodSpec) []string {
	var out []string
	warn := func(at *field.Path, format string, args ...any) {
		out = append(out, at.String()+": "+fmt.Sprintf(format, args...))
	}
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		if text := deprecatedNodeLabel(key); text != "" {
			warn(at.Child("nodeSelector").Key(key), "%s", text)
		}
	}
	if a := s.Affinity; a != nil && a.NodeAffinity != nil {
		out = append(out, affinityWarnings(a.NodeAffinity, under(at, "affinity", "nodeAffinity"))...)
	}
	for i, c := range s.TopologySpreadConstraints {
		if text := deprecatedNodeLabel(c.TopologyKey); text != "" {
			warn(at.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), "%s is %s", c.TopologyKey, text)
		}
		if c.LabelSelector == nil {
			warn(at.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	for i, a := range s.HostAliases {
		out = append(out, validation.GetWarningsForIP(nth(under(at, "hostAliases"), i).Child("ip"), a.IP)...)
	}
	out = append(out, volumeWarnings(s.Volumes, under(at, "volumes"))...)
	seen := map[string]bool{}
	for i, ref := range s.ImagePullSecrets {
		at := nth(under(at, "imagePullSecrets"), i)
		switch {
		case ref.Name == "":
			warn(at.Child("name"), "invalid empty name %q", "")
		case seen[ref.Name]:
			warn(at.Child("name"), "duplicate name %q", ref.Name)
		}
		seen[ref.Name] = true
	}
	out = append(out, fractionWarnings(s.Overhead, at.Child("overhead"))...)
	for i := range s.InitContainers {
		out = append(out, containerWarnings(&s.InitContainers[i], nth(under(at, "initContainers"), i))...)
	}
	for i := range s.Containers {
		out = append(out, containerWarnings(&s.Containers[i], nth(under(at, "containers"), i))...)
	}
	out = append(out, portWarnings(s, at)...)
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		warn(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if s.DNSConfig != nil {
		for i, ns := range s.DNSConfig.Nameservers {
			out = append(out, validation.GetWarningsForIP(nth(under(at, "dnsConfig", "nameservers"), i), ns)...)
		}
	}
	if s.Affinity != nil {
		out = append(out, podAffinityWarnings(s.Affinity, at.Child("affinity"))...)
	}
	return out
}

func deprecatedNodeLabel(key string) string {
	switch key {
	case "beta.kubernetes.io/arch":
		return deprecatedFor("v1.14", corev1.LabelArchStable)
	case "beta.kubernetes.io/os":
		return deprecatedFor("v1.14", corev1.LabelOSStable)
	case "failure-domain.beta.kubernetes.io/region":
		return deprecatedFor("v1.17", corev1.LabelTopologyRegion)
	case "failure-domain.beta.kubernetes.io/zone":
		return deprecatedFor("v1.17", corev1.LabelTopologyZone)
	case "beta.kubernetes.io/instance-type":
		return deprecatedFor("v1.17", corev1.LabelInstanceTypeStable)
	}
	return ""
}

func deprecatedFor(since, instead string) string {
	return fmt.Sprintf("deprecated since %s; use %q instead", since, instead)
}

func affinityWarnings(a *corev1.NodeAffinity, at *field.Path) (out []string) {
	term := func(t *corev1.NodeSelectorTerm, at *field.Path) {
		for i, r := range t.MatchExpressions {
			if text := deprecatedNodeLabel(r.Key); text != "" {
				out = append(out, fmt.Sprintf("%s: %s is %s", nth(under(at, "matchExpressions"), i).Child("key"), r.Key, text))
			}
		}
	}
	if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		for i := range r.NodeSelectorTerms {
			term(&r.NodeSelectorTerms[i], nth(under(at, "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"), i))
		}
	}
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		term(&a.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, nth(under(at, "preferredDuringSchedulingIgnoredDuringExecution"), i).Child("preference"))
	}
	return out
}

// podAffinityWarnings finds terms that select nothing.
func podAffinityWarnings(a *corev1.Affinity, at *field.Path) (out []string) {
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, at *field.Path) {
		warn := func(t *corev1.PodAffinityTerm, at *field.Path) {
			if t.LabelSelector == nil {
				out = append(out, at.Child("labelSelector").String()+": a null labelSelector results in matching no pod")
			}
		}
		for i := range required {
			warn(&required[i], at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			warn(&preferred[i].PodAffinityTerm, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
	return out
}

func volumeWarnings(volumes []corev1.Volume, at *field.Path) (out []string) {
	for i := range volumes {
		v, at := &volumes[i], nth(at, i)
		for _, old := range []struct {
			name string
			used bool
			text string
		}{
			{"photonPersistentDisk", v.PhotonPersistentDisk != nil, "deprecated in v1.11, non-functional in v1.16+"},
			{"gitRepo", v.GitRepo != nil, "deprecated in v1.11, and disabled by default in v1.33+"},
			{"scaleIO", v.ScaleIO != nil, "deprecated in v1.16, non-functional in v1.22+"},
			{"flocker", v.Flocker != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"storageOS", v.StorageOS != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"quobyte", v.Quobyte != nil, "deprecated in v1.22, non-functional in v1.25+"},
			{"glusterfs", v.Glusterfs != nil, "deprecated in v1.25, non-functional in v1.26+"},
			{"cephfs", v.CephFS != nil, "deprecated in v1.28, non-functional in v1.31+"},
			{"rbd", v.RBD != nil, "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if old.used {
				out = append(out, under(at, old.name).String()+": "+old.text)
			}
		}
		if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			storage := e.VolumeClaimTemplate.Spec.Resources.Requests[corev1.ResourceStorage]
			if storage.MilliValue()%1000 != 0 {
				out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer",
					under(under(at, "ephemeral", "volumeClaimTemplate"), "spec", "resources", "requests").Key("storage"), storage.String()))
			}
		}
	}
	return out
}

// fractionWarnings finds parts of bytes.
func fractionWarnings(list corev1.ResourceList, at *field.Path) (out []string) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := list[name]; ok && q.MilliValue()%1000 != 0 {
			out = append(out, fmt.Sprintf("%s: fractional byte value %q is invalid, must be an integer", at.Key(string(name)), q.String()))
		}
	}
	return out
}

func containerWarnings(c *corev1.Container, at *field.Path) (out []string) {
	for _, list := range []struct {
		name   string
		amount corev1.ResourceList
	}{{"limits", c.Resources.Limits}, {"requests", c.Resources.Requests}} {
		out = append(out, fractionWarnings(list.amount, under(at, "resources", list.name))...)
	}
	if !repeatsName(c.Env) {
		return out
	}
	values := map[string]string{}
	defined := map[string]bool{}
	for i, e := range c.Env {
		at := nth(under(at, "env"), i)
		if defined[e.Name] {
			switch {
			case e.Value == "" || !strings.Contains(e.Value, "$("+e.Name+")"):
				out = append(out, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at, e.Name))
			case values[e.Name] == e.Value && strings.Contains(e.Value, "$("+e.Name+")"):
				out = append(out, fmt.Sprintf("%s: hides previous definition of %q, which may be dropped when using apply", at, e.Name))
			}
		}
		defined[e.Name], values[e.Name] = true, e.Value
	}
	return out
}

// fewVars is up to which number of variables looking through them beats a map.
const fewVars = 16

func repeatsName(vars []corev1.EnvVar) bool {
	if len(vars) > fewVars {
		return true // perhaps
	}
	for i := range vars {
		for j := range i {
			if vars[i].Name == vars[j].Name {
				return true
			}
		}
	}
	return false
}

// portWarnings are for ports that are defined twice.
func portWarnings(s *corev1.PodSpec, at *field.Path) (out []string) {
	type place struct {
		container int
		at        *field.Path
		hostPort  int32
		hostIP    string
	}
	type port struct {
		number   int32
		protocol corev1.Protocol
	}
	all := map[port][]place{}
	for i := range s.Containers {
		for j, p := range s.Containers[i].Ports {
			here := place{i, nth(under(nth(under(at, "containers"), i), "ports"), j), p.HostPort, p.HostIP}
			key := port{p.ContainerPort, p.Protocol}
			for _, other := range all[key] {
				if other.hostPort != p.HostPort || other.hostIP != p.HostIP {
					continue
				}
				if other.container == i {
					out = append(out, fmt.Sprintf("%s: duplicate port definition with %s", here.at, other.at))
				} else {
					out = append(out, fmt.Sprintf("%s: duplicate port number with %s", here.at, other.at))
				}
				break
			}
			all[key] = append(all[key], here)
		}
	}
	return out
}

func annotationWarnings(annotations map[string]string, s *corev1.PodSpec, at *field.Path) (out []string) {
	var keys []string
	for key := range annotations {
		if annotationWarning(key) != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		out = append(out, at.Key(key).String()+": "+annotationWarning(key))
	}
	return out
}

func annotationWarning(key string) string {
	switch {
	case key == "scheduler.alpha.kubernetes.io/critical-pod":
		return `non-functional in v1.16+; use the "priorityClassName" field instead`
	case key == "seccomp.security.alpha.kubernetes.io/pod" || strings.HasPrefix(key, "container.seccomp.security.alpha.kubernetes.io/"):
		return `non-functional in v1.27+; use the "seccompProfile" field instead`
	case key == "security.alpha.kubernetes.io/sysctls" || key == "security.alpha.kubernetes.io/unsafe-sysctls":
		return `non-functional in v1.11+; use the "sysctls" field instead`
	case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
		return `deprecated since v1.30; use the "appArmorProfile" field instead`
	}
	return ""
}
