// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	sysctlLengthMax = 253
	sysctlFormat    = `([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?`
	appArmorMax     = 4095
)

func userID(id *int64, at *field.Path) (problems field.ErrorList) {
	if id == nil {
		return nil
	}
	for _, m := range validation.IsValidUserID(*id) {
		problems = append(problems, field.Invalid(at, *id, m))
	}
	return problems
}

func groupID(id *int64, at *field.Path) (problems field.ErrorList) {
	if id == nil {
		return nil
	}
	for _, m := range validation.IsValidGroupID(*id) {
		problems = append(problems, field.Invalid(at, *id, m))
	}
	return problems
}

// validateSecurityContext checks that of a container.
func validateSecurityContext(s *corev1.SecurityContext, pod *corev1.PodSpec, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	problems := append(userID(s.RunAsUser, under(at, "runAsUser")), groupID(s.RunAsGroup, under(at, "runAsGroup"))...)
	if s.ProcMount != nil {
		unsupported := allowed(under(at, "procMount"), *s.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		problems = append(problems, unsupported...)
		if len(unsupported) == 0 && *s.ProcMount == corev1.UnmaskedProcMount && (pod.HostUsers == nil || *pod.HostUsers) {
			problems = append(problems, field.Invalid(at.Child("procMount"), *s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	problems = append(problems, validateSeccomp(s.SeccompProfile, under(at, "seccompProfile"))...)
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			problems = append(problems, field.Invalid(at, shown{s}, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil {
			for _, c := range s.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					problems = append(problems, field.Invalid(at, shown{s}, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	problems = append(problems, validateWindowsOptions(s.WindowsOptions, under(at, "windowsOptions"))...)
	problems = append(problems, sameHostProcess(s.WindowsOptions, pod, under(at, "windowsOptions", "hostProcess"))...)
	return append(problems, validateAppArmor(s.AppArmorProfile, under(at, "appArmorProfile"))...)
}

func validateSeccomp(p *corev1.SeccompProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	problems := oneOfSorted(under(at, "type"), p.Type, "type is required when seccompProfile is set",
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	if p.Type == corev1.SeccompProfileTypeLocalhost {
		if p.LocalhostProfile == nil {
			return append(problems, field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
		}
		return append(problems, descending(*p.LocalhostProfile, under(at, "localhostProfile"))...)
	}
	if p.LocalhostProfile != nil {
		problems = append(problems, field.Invalid(at.Child("localhostProfile"), shown{p}, "can only be set when seccomp type is Localhost"))
	}
	return problems
}

func validateAppArmor(p *corev1.AppArmorProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	problems := oneOfSorted(under(at, "type"), p.Type, "type is required when appArmorProfile is set",
		corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	at = under(at, "localhostProfile")
	if p.Type != corev1.AppArmorProfileTypeLocalhost {
		if p.LocalhostProfile != nil && len(problems) == 0 {
			problems = append(problems, field.Invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
		return problems
	}
	if p.LocalhostProfile == nil {
		return append(problems, field.Required(at, "must be set when AppArmor type is Localhost"))
	}
	name := strings.TrimSpace(*p.LocalhostProfile)
	if name != *p.LocalhostProfile {
		problems = append(problems, field.Invalid(at, *p.LocalhostProfile, "must not be padded with whitespace"))
	} else if name == "" {
		problems = append(problems, field.Required(at, "must be set when AppArmor type is Localhost"))
	}
	if len(*p.LocalhostProfile) > appArmorMax {
		problems = append(problems, field.TooLong(at, "", appArmorMax))
	}
	return problems
}

func oneOfSorted[T ~string](at *field.Path, value T, missing string, values ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, missing)}
	}
	return allowed(at, value, values...)
}

// validatePodSecurity checks a pod's security context and its namespaces of the host.
func validatePodSecurity(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	problems := validateHostPorts(spec, at)
	context := under(at, "securityContext")
	if s := spec.SecurityContext; s != nil {
		problems = append(problems, groupID(s.FSGroup, under(context, "fsGroup"))...)
		problems = append(problems, userID(s.RunAsUser, under(context, "runAsUser"))...)
		problems = append(problems, groupID(s.RunAsGroup, under(context, "runAsGroup"))...)
		for i := range s.SupplementalGroups {
			problems = append(problems, groupID(&s.SupplementalGroups[i], nth(under(context, "supplementalGroups"), i))...)
		}
	}
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && spec.HostPID {
		problems = append(problems, field.Invalid(under(context, "shareProcessNamespace"), *spec.ShareProcessNamespace,
			"ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if s := spec.SecurityContext; s != nil {
		problems = append(problems, validateSysctls(s.Sysctls, under(context, "sysctls"))...)
		if s.FSGroupChangePolicy != nil {
			problems = append(problems, allowed(under(context, "fsGroupChangePolicy"), *s.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
		}
		problems = append(problems, validateSeccomp(s.SeccompProfile, under(context, "seccompProfile"))...)
		problems = append(problems, validateAppArmor(s.AppArmorProfile, under(context, "appArmorProfile"))...)
		if s.SupplementalGroupsPolicy != nil {
			problems = append(problems, allowed(under(context, "supplementalGroupsPolicy"), *s.SupplementalGroupsPolicy,
				corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
		}
		if s.SELinuxChangePolicy != nil { // MountOption is a feature that is off
			problems = append(problems, allowed(under(context, "seLinuxChangePolicy"), *s.SELinuxChangePolicy, corev1.SELinuxChangePolicyRecursive)...)
		}
		problems = append(problems, validateWindowsOptions(s.WindowsOptions, under(context, "windowsOptions"))...)
	}
	problems = append(problems, validateHostProcess(spec, at)...)
	return append(problems, validateHostUsers(spec, at)...)
}

// validateHostUsers refuses namespaces of the host for pods with users of their own.
func validateHostUsers(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	if s.HostUsers == nil || *s.HostUsers {
		return nil
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"hostNetwork", s.HostNetwork}, {"HostPID", s.HostPID}, {"HostIPC", s.HostIPC}} { // so Kubernetes names them
		if f.set {
			problems = append(problems, field.Forbidden(at.Child(f.name), "when `hostUsers` is false"))
		}
	}
	return problems
}

func validateSysctls(list []corev1.Sysctl, at *field.Path) (problems field.ErrorList) {
	if len(list) == 0 {
		return nil
	}
	format, seen := regexp.MustCompile("^"+sysctlFormat+"$"), sets.New[string]()
	for i, s := range list {
		at := under(nth(at, i), "name")
		switch {
		case s.Name == "":
			problems = append(problems, field.Required(at, ""))
		case len(s.Name) > sysctlLengthMax || !format.MatchString(s.Name):
			problems = append(problems, field.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex ^%s$", sysctlLengthMax, sysctlFormat)))
		case seen.Has(s.Name):
			problems = append(problems, field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
	}
	return problems
}
