// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	return ValidatePodSpec(&p.Spec, field.NewPath("spec"))
}

// ValidatePodSpec checks what pods and pod templates share.
func ValidatePodSpec(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	volumes, errs := validateVolumes(s.Volumes, path.Child("volumes"))
	problems = append(problems, errs...)
	problems = append(problems, validateContainers(s, volumes, path)...)
	problems = append(problems, oneOf(path.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	problems = append(problems, oneOf(path.Child("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	problems = append(problems, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	if s.ServiceAccountName != "" {
		for _, m := range apivalidation.ValidateServiceAccountName(s.ServiceAccountName, false) {
			problems = append(problems, field.Invalid(path.Child("serviceAccountName"), s.ServiceAccountName, m))
		}
	}
	if s.NodeName != "" {
		for _, m := range apivalidation.NameIsDNSSubdomain(s.NodeName, false) {
			problems = append(problems, field.Invalid(path.Child("nodeName"), s.NodeName, m))
		}
	}
	if s.ActiveDeadlineSeconds != nil && *s.ActiveDeadlineSeconds < 1 {
		problems = append(problems, field.Invalid(path.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	if s.Hostname != "" {
		problems = append(problems, dnsLabel(s.Hostname, path.Child("hostname"))...)
	}
	if s.Subdomain != "" {
		problems = append(problems, dnsLabel(s.Subdomain, path.Child("subdomain"))...)
	}
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		problems = append(problems, field.Invalid(path.Child("terminationGracePeriodSeconds"), *s.TerminationGracePeriodSeconds, apivalidation.IsNegativeErrorMsg))
	}
	problems = append(problems, validateTolerations(s.Tolerations, path.Child("tolerations"))...)
	return problems
}

func oneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	for _, a := range allowed {
		if value == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

func dnsLabel(value string, path *field.Path) (problems field.ErrorList) {
	for _, m := range validation.IsDNS1123Label(value) {
		problems = append(problems, field.Invalid(path, value, m))
	}
	return problems
}

func validateTolerations(list []corev1.Toleration, path *field.Path) (problems field.ErrorList) {
	for i, t := range list {
		at := path.Index(i)
		if t.Key != "" {
			problems = append(problems, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			problems = append(problems, field.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			problems = append(problems, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
		case corev1.TolerationOpExists:
			if t.Value != "" {
				problems = append(problems, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			problems = append(problems, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
	}
	return problems
}

func validateVolumes(volumes []corev1.Volume, path *field.Path) (sets.Set[string], field.ErrorList) {
	names := sets.New[string]()
	var problems field.ErrorList
	for i := range volumes {
		v, at := &volumes[i], path.Index(i)
		switch {
		case v.Name == "":
			problems = append(problems, field.Required(at.Child("name"), ""))
		case names.Has(v.Name):
			problems = append(problems, field.Duplicate(at.Child("name"), v.Name))
		default:
			problems = append(problems, dnsLabel(v.Name, at.Child("name"))...)
		}
		names.Insert(v.Name)
		switch {
		case v.HostPath != nil && v.HostPath.Path == "":
			problems = append(problems, field.Required(at.Child("hostPath", "path"), ""))
		case v.Secret != nil && v.Secret.SecretName == "":
			problems = append(problems, field.Required(at.Child("secret", "secretName"), ""))
		case v.ConfigMap != nil && v.ConfigMap.Name == "":
			problems = append(problems, field.Required(at.Child("configMap", "name"), ""))
		}
	}
	return names, problems
}

func validateContainers(s *corev1.PodSpec, volumes sets.Set[string], path *field.Path) field.ErrorList {
	var problems field.ErrorList
	names := sets.New[string]()
	if len(s.Containers) == 0 {
		problems = append(problems, field.Required(path.Child("containers"), ""))
	}
	for i := range s.Containers {
		problems = append(problems, validateContainer(&s.Containers[i], names, volumes, path.Child("containers").Index(i))...)
	}
	for i := range s.InitContainers {
		at := path.Child("initContainers").Index(i)
		c := &s.InitContainers[i]
		problems = append(problems, validateContainer(c, names, volumes, at)...)
		if !sidecar(c) && (c.LivenessProbe != nil || c.ReadinessProbe != nil || c.StartupProbe != nil || c.Lifecycle != nil) {
			for name, set := range map[string]bool{
				"lifecycle": c.Lifecycle != nil, "livenessProbe": c.LivenessProbe != nil,
				"readinessProbe": c.ReadinessProbe != nil, "startupProbe": c.StartupProbe != nil,
			} {
				if set {
					problems = append(problems, field.Forbidden(at.Child(name), "may not be set for init containers without restartPolicy=Always"))
				}
			}
		}
	}
	return problems
}

func validateContainer(c *corev1.Container, names, volumes sets.Set[string], path *field.Path) field.ErrorList {
	var problems field.ErrorList
	switch {
	case c.Name == "":
		problems = append(problems, field.Required(path.Child("name"), ""))
	case names.Has(c.Name):
		problems = append(problems, field.Duplicate(path.Child("name"), c.Name))
	default:
		problems = append(problems, dnsLabel(c.Name, path.Child("name"))...)
	}
	names.Insert(c.Name)
	if c.Image == "" {
		problems = append(problems, field.Required(path.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		problems = append(problems, field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	problems = append(problems, oneOf(path.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	problems = append(problems, oneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	problems = append(problems, validatePorts(c.Ports, path.Child("ports"))...)
	for i, e := range c.Env {
		at := path.Child("env").Index(i)
		if e.Name == "" {
			problems = append(problems, field.Required(at.Child("name"), ""))
		} else {
			for _, m := range validation.IsRelaxedEnvVarName(e.Name) {
				problems = append(problems, field.Invalid(at.Child("name"), e.Name, m))
			}
		}
		if e.Value != "" && e.ValueFrom != nil {
			problems = append(problems, field.Invalid(at.Child("valueFrom"), "", "may not be specified when `value` is not empty"))
		}
	}
	mounts := sets.New[string]()
	for i, m := range c.VolumeMounts {
		at := path.Child("volumeMounts").Index(i)
		switch {
		case m.Name == "":
			problems = append(problems, field.Required(at.Child("name"), ""))
		case !volumes.Has(m.Name):
			problems = append(problems, field.NotFound(at.Child("name"), m.Name))
		}
		switch {
		case m.MountPath == "":
			problems = append(problems, field.Required(at.Child("mountPath"), ""))
		case mounts.Has(m.MountPath):
			problems = append(problems, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		mounts.Insert(m.MountPath)
	}
	problems = append(problems, validateResources(&c.Resources, path.Child("resources"))...)
	return problems
}

func validatePorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if messages := validation.IsValidPortName(p.Name); len(messages) > 0 {
				for _, m := range messages {
					problems = append(problems, field.Invalid(at.Child("name"), p.Name, m))
				}
			} else if names.Has(p.Name) {
				problems = append(problems, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			problems = append(problems, field.Required(at.Child("containerPort"), ""))
		} else {
			for _, m := range validation.IsValidPortNum(int(p.ContainerPort)) {
				problems = append(problems, field.Invalid(at.Child("containerPort"), p.ContainerPort, m))
			}
		}
		if p.HostPort != 0 {
			for _, m := range validation.IsValidPortNum(int(p.HostPort)) {
				problems = append(problems, field.Invalid(at.Child("hostPort"), p.HostPort, m))
			}
		}
		problems = append(problems, oneOf(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return problems
}

func validateResources(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	for name, q := range r.Limits {
		if q.Sign() < 0 {
			problems = append(problems, field.Invalid(path.Child("limits").Key(string(name)), q.String(), apivalidation.IsNegativeErrorMsg))
		}
	}
	for name, q := range r.Requests {
		at := path.Child("requests").Key(string(name))
		if q.Sign() < 0 {
			problems = append(problems, field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg))
		}
		if limit, ok := r.Limits[name]; ok && q.Cmp(limit) > 0 {
			problems = append(problems, field.Invalid(path.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	return problems
}

// validatePodUpdate lets images, the deadline, gates and further tolerations change, and nothing else of the spec.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	var problems field.ErrorList
	path := field.NewPath("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(problems, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(problems, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	for _, t := range old.Spec.Tolerations {
		kept := false
		for _, n := range p.Spec.Tolerations {
			kept = kept || t.MatchToleration(&n)
		}
		if !kept {
			problems = append(problems, field.Forbidden(path.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	munged := p.Spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	munged.Tolerations = old.Spec.Tolerations
	munged.TerminationGracePeriodSeconds = grace(munged, &old.Spec)
	if len(munged.SchedulingGates) < len(old.Spec.SchedulingGates) {
		munged.SchedulingGates = old.Spec.SchedulingGates
		munged.NodeSelector, munged.Affinity = old.Spec.NodeSelector, old.Spec.Affinity
	}
	if old.Spec.ActiveDeadlineSeconds != nil {
		at := path.Child("activeDeadlineSeconds")
		switch now := p.Spec.ActiveDeadlineSeconds; {
		case now == nil:
			problems = append(problems, field.Invalid(at, nil, "must not update from a positive integer to nil value"))
		case *now > *old.Spec.ActiveDeadlineSeconds:
			problems = append(problems, field.Invalid(at, *now, "must be less than or equal to previous value"))
		}
	}
	if !equality.Semantic.DeepEqual(munged, &old.Spec) {
		problems = append(problems, field.Forbidden(path, "pod updates may not change fields other than `spec.containers[*].image`,"+
			"`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"+
			"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"+diff.Diff(munged, &old.Spec)))
	}
	return problems
}

func grace(now, old *corev1.PodSpec) *int64 {
	if old.TerminationGracePeriodSeconds != nil && *old.TerminationGracePeriodSeconds < 0 &&
		now.TerminationGracePeriodSeconds != nil && *now.TerminationGracePeriodSeconds == 1 {
		return old.TerminationGracePeriodSeconds
	}
	return now.TerminationGracePeriodSeconds
}

// ValidateTemplate checks a pod template: its labels, and its pod as far as a template must be sound.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	problems := metavalidation.ValidateLabels(t.Labels, path.Child("labels"))
	problems = append(problems, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	return append(problems, ValidatePodSpec(&t.Spec, path.Child("spec"))...)
}

// ValidateSelector checks the selector of a workload against its template.
func ValidateSelector(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	at := path.Child("selector")
	if selector == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	problems := metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		problems = append(problems, field.Invalid(at, selector, "empty selector is invalid for deployment"))
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(problems, field.Invalid(at, selector, "invalid label selector"))
	}
	if !s.Empty() && !s.Matches(labels.Set(t.Labels)) {
		problems = append(problems, field.Invalid(path.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	return problems
}
