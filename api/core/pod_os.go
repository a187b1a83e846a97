// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"regexp"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the options of Windows containers, in bytes.
const (
	credentialSpecMax = 64 * 1024
	windowsDomainMax  = 256
	windowsUserMax    = 104
)

const notForWindows = "cannot be set for a windows pod"

func validateWindowsOptions(o *corev1.WindowsSecurityContextOptions, at *field.Path) (problems field.ErrorList) {
	if o == nil {
		return nil
	}
	if o.GMSACredentialSpecName != nil {
		problems = append(problems, subdomain(*o.GMSACredentialSpecName, at.Child("gmsaCredentialSpecName"))...)
	}
	if s := o.GMSACredentialSpec; s != nil {
		switch at := at.Child("gmsaCredentialSpec"); {
		case *s == "":
			problems = append(problems, field.Invalid(at, *s, "gmsaCredentialSpec cannot be an empty string"))
		case len(*s) > credentialSpecMax:
			problems = append(problems, field.Invalid(at, *s, "gmsaCredentialSpec size must be under 64 KiB"))
		}
	}
	if o.RunAsUserName != nil {
		for _, m := range windowsUser(*o.RunAsUserName) {
			problems = append(problems, field.Invalid(at.Child("runAsUserName"), o.RunAsUserName, "runAsUserName"+m))
		}
	}
	return problems
}

// windowsUser says what is wrong with a name such as DOMAIN\user.
func windowsUser(name string) (out []string) {
	switch {
	case name == "":
		return []string{" cannot be an empty string"}
	case strings.ContainsFunc(name, unicode.IsControl):
		return []string{" cannot contain control characters"}
	case strings.Count(name, `\`) > 1:
		return []string{" cannot contain more than one backslash"}
	}
	if domain, user, found := strings.Cut(name, `\`); found {
		name = user
		if len(domain) >= windowsDomainMax {
			out = append(out, "'s Domain length must be under 256 characters")
		}
		netBIOS := regexp.MustCompile(`^[^\\/:*?"<>|.][^\\/:*?"<>|]{0,14}$`)
		dns := regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*$`)
		if !netBIOS.MatchString(domain) && !dns.MatchString(domain) {
			out = append(out, "'s Domain doesn't match the NetBios nor the DNS format")
		}
	}
	switch {
	case name == "":
		return append(out, "'s User cannot be empty")
	case len(name) > windowsUserMax:
		out = append(out, "'s User length must not be longer than 104 characters")
	}
	if strings.Trim(name, ". ") == "" {
		out = append(out, "'s User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(name, `"/\:;|=,+*?<>@[]`) {
		out = append(out, `'s User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return out
}

// hostProcess is what an option of a pod or a container says; nil if nothing.
func hostProcess(o *corev1.WindowsSecurityContextOptions) *bool {
	if o == nil {
		return nil
	}
	return o.HostProcess
}

func podHostProcess(s *corev1.PodSpec) *bool {
	if s.SecurityContext == nil {
		return nil
	}
	return hostProcess(s.SecurityContext.WindowsOptions)
}

// sameHostProcess keeps a container from saying something else than its pod.
func sameHostProcess(o *corev1.WindowsSecurityContextOptions, pod *corev1.PodSpec, at *field.Path) field.ErrorList {
	own, all := hostProcess(o), podHostProcess(pod)
	if own == nil || all == nil || *own == *all {
		return nil
	}
	detail := map[bool]string{true: "true", false: "false"}[*all]
	return field.ErrorList{field.Invalid(at, *own, "pod hostProcess value must be identical if both are specified, was "+detail)}
}

// validateHostProcess allows pods whose containers are all processes of the host, on its network, or none.
func validateHostProcess(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	some, others := false, false
	eachSecurityContext(s, at, func(c *corev1.SecurityContext, _ *field.Path) {
		is := podHostProcess(s)
		if c != nil && hostProcess(c.WindowsOptions) != nil {
			is = c.WindowsOptions.HostProcess
		}
		some, others = some || is != nil && *is, others || is == nil || !*is
	})
	if !some {
		return nil
	}
	if others {
		problems = append(problems, field.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		problems = append(problems, field.Invalid(at.Child("hostNetwork"), s.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return problems
}

// eachSecurityContext visits the security contexts of all containers, those to initialize first.
func eachSecurityContext(s *corev1.PodSpec, at *field.Path, visit func(c *corev1.SecurityContext, at *field.Path)) {
	for i := range s.InitContainers {
		visit(s.InitContainers[i].SecurityContext, under(nth(under(at, "initContainers"), i), "securityContext"))
	}
	for i := range s.Containers {
		visit(s.Containers[i].SecurityContext, under(nth(under(at, "containers"), i), "securityContext"))
	}
	for i := range s.EphemeralContainers {
		visit(s.EphemeralContainers[i].SecurityContext, under(nth(under(at, "ephemeralContainers"), i), "securityContext"))
	}
}

// validateOS refuses what the operating system of a pod does not know.
func validateOS(s *corev1.PodSpec, at *field.Path) field.ErrorList {
	switch s.OS.Name {
	case "":
		return field.ErrorList{field.Required(at.Child("os", "name"), "")}
	case corev1.Linux:
		return validateLinux(s, at)
	case corev1.Windows:
		return validateWindows(s, at)
	}
	return allowed(at.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows)
}

func validateLinux(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	const wrong = "windows options cannot be set for a linux pod"
	if s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil {
		problems = append(problems, field.Forbidden(at.Child("securityContext", "windowsOptions"), wrong))
	}
	eachSecurityContext(s, at, func(c *corev1.SecurityContext, at *field.Path) {
		if c != nil && c.WindowsOptions != nil {
			problems = append(problems, field.Forbidden(at.Child("windowsOptions"), wrong))
		}
	})
	return problems
}

func validateWindows(s *corev1.PodSpec, at *field.Path) (problems field.ErrorList) {
	without := func(at *field.Path, name string, set bool) {
		if set {
			problems = append(problems, field.Forbidden(at.Child(name), notForWindows))
		}
	}
	context := at.Child("securityContext")
	c := s.SecurityContext
	if c == nil {
		c = &corev1.PodSecurityContext{}
	}
	if s.Resources != nil {
		problems = append(problems, field.Forbidden(at.Child("resources"), "may not be set for a windows pod"))
	}
	without(context, "appArmorProfile", c.AppArmorProfile != nil)
	without(context, "seLinuxOptions", c.SELinuxOptions != nil)
	without(at, "hostUsers", s.HostUsers != nil)
	without(at, "hostPID", s.HostPID)
	without(at, "hostIPC", s.HostIPC)
	without(context, "seccompProfile", c.SeccompProfile != nil)
	without(context, "fsGroup", c.FSGroup != nil)
	without(context, "fsGroupChangePolicy", c.FSGroupChangePolicy != nil)
	without(context, "sysctls", len(c.Sysctls) > 0)
	without(at, "shareProcessNamespace", s.ShareProcessNamespace != nil)
	without(context, "runAsUser", c.RunAsUser != nil)
	without(context, "runAsGroup", c.RunAsGroup != nil)
	without(context, "supplementalGroups", c.SupplementalGroups != nil)
	without(context, "supplementalGroupsPolicy", c.SupplementalGroupsPolicy != nil)
	eachSecurityContext(s, at, func(c *corev1.SecurityContext, at *field.Path) {
		if c == nil {
			return
		}
		without(at, "appArmorProfile", c.AppArmorProfile != nil)
		without(at, "seLinuxOptions", c.SELinuxOptions != nil)
		without(at, "seccompProfile", c.SeccompProfile != nil)
		without(at, "capabilities", c.Capabilities != nil)
		without(at, "readOnlyRootFilesystem", c.ReadOnlyRootFilesystem != nil)
		without(at, "privileged", c.Privileged != nil)
		without(at, "allowPrivilegeEscalation", c.AllowPrivilegeEscalation != nil)
		without(at, "procMount", c.ProcMount != nil)
		without(at, "runAsUser", c.RunAsUser != nil)
		without(at, "runAsGroup", c.RunAsGroup != nil)
	})
	return problems
}
