// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/api/resource"
)

// Bounds of a pod's DNS configuration.
const (
	dnsServersMax       = 3
	dnsSearchesMax      = 32
	dnsSearchLettersMax = 2048
	fqdnLettersMax      = 64
)

func validatePod(p *corev1.Pod) field.ErrorList { return validatePodIf(p, true) }

// revalidatePod does not look again at a spec that stays as it is.
func revalidatePod(p, old *corev1.Pod) field.ErrorList {
	return validatePodIf(p, !SamePodSpec(&p.Spec, &old.Spec))
}

// validatePodIf validates a pod, with what its spec says of itself if that changed.
func validatePodIf(p *corev1.Pod, changed bool) field.ErrorList {
	problems := validatePodAnnotations(p.Annotations, &p.Spec, nil)
	if len(problems) > 0 { // paths cost more than looking
		problems = validatePodAnnotations(p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	}
	if changed {
		for i := range p.Spec.Volumes { // templates may leave out which image
			if v := p.Spec.Volumes[i].Image; v != nil {
				problems = append(problems, needed(field.NewPath("spec", "volumes").Index(i).Child("image"), "reference", v.Reference)...)
			}
		}
		problems = append(problems, validatePodSpec(&p.Spec, true, field.NewPath("spec"))...)
	}
	return problems
}

// validatePodSpec checks what pods and pod templates share, and what of it only pods must keep to.
func validatePodSpec(s *corev1.PodSpec, pod bool, at *field.Path) field.ErrorList {
	if len(podSpecProblems(s, pod, nil)) == 0 { // most of the time goes into paths of problems that nobody has
		return nil
	}
	return podSpecProblems(s, pod, at)
}

func podSpecProblems(s *corev1.PodSpec, pod bool, at *field.Path) field.ErrorList {
	volumes, problems := validateVolumes(s.Volumes, under(at, "volumes"))
	claims, errs := validatePodClaims(s.ResourceClaims, under(at, "resourceClaims"))
	problems = append(problems, errs...)
	c := &podContext{spec: s, volumes: volumes, claims: claims, names: sets.New[string](), pod: pod}
	problems = append(problems, c.containers(under(at, "containers"))...)
	problems = append(problems, c.initContainers(under(at, "initContainers"))...)
	problems = append(problems, c.ephemeralContainers(under(at, "ephemeralContainers"))...)
	problems = append(problems, validatePodResources(s, claims, under(at, "resources"))...)
	problems = append(problems, oneOf(under(at, "restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	problems = append(problems, oneOf(under(at, "dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	problems = append(problems, metavalidation.ValidateLabels(s.NodeSelector, under(at, "nodeSelector"))...)
	problems = append(problems, validatePodSecurity(s, at)...)
	problems = append(problems, validateAffinity(s.Affinity, under(at, "affinity"))...)
	problems = append(problems, validateDNSConfig(s, under(at, "dnsConfig"))...)
	for i, g := range s.ReadinessGates {
		for _, m := range validation.IsQualifiedName(string(g.ConditionType)) {
			problems = append(problems, field.Invalid(at.Child("readinessGates").Index(i).Child("conditionType"), g.ConditionType, m))
		}
	}
	problems = append(problems, validateSchedulingGates(s.SchedulingGates, under(at, "schedulingGates"))...)
	problems = append(problems, validateSpread(s.TopologySpreadConstraints, under(at, "topologySpreadConstraints"))...)
	problems = append(problems, validatePodNames(s, at)...)
	problems = append(problems, validateTolerations(s.Tolerations, under(at, "tolerations"))...)
	problems = append(problems, validateHostAliases(s.HostAliases, under(at, "hostAliases"))...)
	return append(problems, validatePodRest(s, at)...)
}

// validatePodNames checks the names of other objects, and of the pod as a host.
func validatePodNames(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	var problems field.ErrorList
	name := func(child, value string) {
		if value != "" {
			problems = append(problems, subdomain(value, under(at, child))...)
		}
	}
	name("serviceAccountName", s.ServiceAccountName)
	name("nodeName", s.NodeName)
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > 1<<31-1) {
		problems = append(problems, field.Invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	if s.Hostname != "" {
		problems = append(problems, dnsLabel(s.Hostname, under(at, "hostname"))...)
	}
	if s.Subdomain != "" {
		problems = append(problems, dnsLabel(s.Subdomain, under(at, "subdomain"))...)
	}
	if h := s.HostnameOverride; h != nil {
		if len(*h) > fqdnLettersMax {
			problems = append(problems, field.TooLong(at.Child("hostnameOverride"), *h, fqdnLettersMax))
		}
		problems = append(problems, subdomain(*h, under(at, "hostnameOverride"))...)
		if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
			problems = append(problems, field.Forbidden(at.Child("hostnameOverride"), "may not be specified when setHostnameAsFQDN is true"))
		}
		if s.HostNetwork {
			problems = append(problems, field.Forbidden(at.Child("hostnameOverride"), "may not be specified when hostNetwork is true"))
		}
	}
	return problems
}

func validatePodRest(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	if s.PriorityClassName != "" {
		problems = append(problems, subdomain(s.PriorityClassName, under(at, "priorityClassName"))...)
	}
	if s.RuntimeClassName != nil {
		problems = append(problems, subdomain(*s.RuntimeClassName, under(at, "runtimeClassName"))...)
	}
	if s.PreemptionPolicy != nil {
		problems = append(problems, oneOf(under(at, "preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if len(s.Overhead) > 0 {
		problems = append(problems, validateResources(&corev1.ResourceRequirements{Limits: s.Overhead}, validateContainerResourceName, under(at, "overhead"))...)
	}
	if s.OS != nil {
		problems = append(problems, validateOS(s, at)...)
	}
	return problems
}

func oneOf[T ~string](at *field.Path, value T, known ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return allowed(at, value, known...)
}

// allowed is oneOf for fields where an empty value is just another wrong one.
func allowed[T ~string](at *field.Path, value T, known ...T) field.ErrorList {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, value, known)}
}

func dnsLabel(value string, at *field.Path) (problems field.ErrorList) {
	if resource.IsLabel(value) {
		return nil
	}
	for _, m := range validation.IsDNS1123Label(value) {
		problems = append(problems, field.Invalid(at, value, m))
	}
	return problems
}

func validateHostAliases(list []corev1.HostAlias, at *field.Path) (problems field.ErrorList) {
	for i, a := range list {
		at := nth(at, i)
		problems = append(problems, validation.IsValidIPForLegacyField(under(at, "ip"), a.IP, true, nil)...)
		for j, name := range a.Hostnames {
			problems = append(problems, subdomain(name, nth(under(at, "hostnames"), j))...)
		}
	}
	return problems
}

func validateDNSConfig(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	c := s.DNSConfig
	if s.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(c.Nameservers) == 0 {
			return field.ErrorList{field.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if c == nil {
		return nil
	}
	if len(c.Nameservers) > dnsServersMax {
		problems = append(problems, field.Invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", dnsServersMax)))
	}
	for i, ns := range c.Nameservers {
		problems = append(problems, validation.IsValidIPForLegacyField(nth(under(at, "nameservers"), i), ns, true, nil)...)
	}
	if len(c.Searches) > dnsSearchesMax {
		problems = append(problems, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", dnsSearchesMax)))
	}
	if len(strings.Join(c.Searches, " ")) > dnsSearchLettersMax {
		problems = append(problems, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", dnsSearchLettersMax)))
	}
	for i, search := range c.Searches {
		name := search
		if search != "." {
			name = strings.TrimSuffix(search, ".")
		} else {
			continue
		}
		for _, m := range validation.IsDNS1123SubdomainWithUnderscore(name) {
			problems = append(problems, field.Invalid(at.Child("searches").Index(i), search, m))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			problems = append(problems, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return problems
}

// ValidateTemplate checks a pod template: its labels, and its pod as far as a template must be sound.
func ValidateTemplate(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	problems := ValidateTemplateNotes(t, at)
	problems = append(problems, validatePodSpec(&t.Spec, false, under(at, "spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		problems = append(problems, field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return problems
}

// ValidateTemplateNotes checks labels and annotations of a template.
func ValidateTemplateNotes(t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	problems := metavalidation.ValidateLabels(t.Labels, under(at, "labels"))
	problems = append(problems, apivalidation.ValidateAnnotations(t.Annotations, under(at, "annotations"))...)
	return append(problems, validatePodAnnotations(t.Annotations, &t.Spec, under(at, "annotations"))...)
}

// ValidateSelector checks the selector of a workload: it must be there and select something.
func ValidateSelector(selector *metav1.LabelSelector, at *field.Path) field.ErrorList {
	at = under(at, "selector")
	if selector == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	problems := metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 { // Kubernetes names deployments for all
		problems = append(problems, field.Invalid(at, selector, "empty selector is invalid for deployment"))
	}
	return problems
}

// ValidateSelected checks that a template has the labels that the selector of its workload selects; an empty selector is none of its business.
func ValidateSelected(s labels.Selector, missing bool, t *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	if (missing || !s.Empty()) && !s.Matches(labels.Set(t.Labels)) {
		return field.ErrorList{field.Invalid(at.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`")}
	}
	return nil
}
