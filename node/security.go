// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/node/pod"
)

// namespaces says which Linux namespaces the containers of a pod share with what.
func namespaces(p *corev1.Pod) *runtimeapi.NamespaceOption {
	options := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		options.Network = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		options.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case p.Spec.HostPID:
		options.Pid = runtimeapi.NamespaceMode_NODE
	case p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace:
		options.Pid = runtimeapi.NamespaceMode_POD
	}
	return options
}

func sandboxSecurity(p *corev1.Pod) *runtimeapi.LinuxSandboxSecurityContext {
	security := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(p),
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	for _, s := range pod.Containers(p) {
		if s.SecurityContext != nil && s.SecurityContext.Privileged != nil && *s.SecurityContext.Privileged {
			security.Privileged = true
		}
	}
	if s := p.Spec.SecurityContext; s != nil {
		if s.RunAsUser != nil {
			security.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
			if s.RunAsGroup != nil {
				security.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
			}
		}
		security.SupplementalGroups = groups(s)
	}
	return security
}

func groups(s *corev1.PodSecurityContext) []int64 {
	list := append([]int64(nil), s.SupplementalGroups...)
	if s.FSGroup != nil {
		list = append(list, *s.FSGroup)
	}
	return list
}

// effective is the security context of a container with what it takes over from the pod's.
func effective(p *corev1.Pod, c *corev1.Container) *corev1.SecurityContext {
	own := &corev1.SecurityContext{}
	if c.SecurityContext != nil {
		own = c.SecurityContext.DeepCopy()
	}
	s := p.Spec.SecurityContext
	if s == nil {
		return own
	}
	if own.RunAsUser == nil {
		own.RunAsUser = s.RunAsUser
	}
	if own.RunAsGroup == nil {
		own.RunAsGroup = s.RunAsGroup
	}
	if own.RunAsNonRoot == nil {
		own.RunAsNonRoot = s.RunAsNonRoot
	}
	if own.SeccompProfile == nil {
		own.SeccompProfile = s.SeccompProfile
	}
	if own.AppArmorProfile == nil {
		own.AppArmorProfile = s.AppArmorProfile
	}
	return own
}

// containerSecurity translates security contexts. image is what the runtime knows of the container's image.
func (a *Agent) containerSecurity(p *corev1.Pod, spec pod.Spec, image *runtimeapi.Image, target string) (*runtimeapi.LinuxContainerSecurityContext, error) {
	s := effective(p, spec.Container)
	if err := checkNonRoot(p, spec.Container, s, image); err != nil {
		return nil, err
	}
	security := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(p),
		Privileged:       s.Privileged != nil && *s.Privileged,
		ReadonlyRootfs:   s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem,
		NoNewPrivs:       s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation,
		Seccomp:          a.seccomp(s.SeccompProfile),
	}
	if target != "" {
		security.NamespaceOptions.Pid, security.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, target
	}
	if s.RunAsUser != nil {
		security.RunAsUser = &runtimeapi.Int64Value{Value: *s.RunAsUser}
	} else if uid := image.GetUid(); uid != nil {
		security.RunAsUser = &runtimeapi.Int64Value{Value: uid.Value}
	} else if image.GetUsername() != "" {
		security.RunAsUsername = image.Username
	}
	// The runtime takes a group only along with a user.
	if s.RunAsGroup != nil {
		if security.RunAsUser == nil && security.RunAsUsername == "" {
			security.RunAsUser = &runtimeapi.Int64Value{}
		}
		security.RunAsGroup = &runtimeapi.Int64Value{Value: *s.RunAsGroup}
	}
	if p.Spec.SecurityContext != nil {
		security.SupplementalGroups = groups(p.Spec.SecurityContext)
	}
	if s.Capabilities != nil {
		security.Capabilities = &runtimeapi.Capability{}
		for _, c := range s.Capabilities.Add {
			security.Capabilities.AddCapabilities = append(security.Capabilities.AddCapabilities, string(c))
		}
		for _, c := range s.Capabilities.Drop {
			security.Capabilities.DropCapabilities = append(security.Capabilities.DropCapabilities, string(c))
		}
	}
	if profile := s.AppArmorProfile; profile != nil {
		security.Apparmor = &runtimeapi.SecurityProfile{ProfileType: profileKind(string(profile.Type))}
		if profile.LocalhostProfile != nil {
			security.Apparmor.LocalhostRef = *profile.LocalhostProfile
		}
	}
	if s.ProcMount == nil || *s.ProcMount == corev1.DefaultProcMount {
		security.MaskedPaths = []string{
			"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
		}
		security.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if security.Privileged {
		security.MaskedPaths, security.ReadonlyPaths = nil, nil
		security.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	return security, nil
}

func profileKind(kind string) runtimeapi.SecurityProfile_ProfileType {
	switch kind {
	case "RuntimeDefault":
		return runtimeapi.SecurityProfile_RuntimeDefault
	case "Localhost":
		return runtimeapi.SecurityProfile_Localhost
	}
	return runtimeapi.SecurityProfile_Unconfined
}

func (a *Agent) seccomp(profile *corev1.SeccompProfile) *runtimeapi.SecurityProfile {
	if profile == nil {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	s := &runtimeapi.SecurityProfile{ProfileType: profileKind(string(profile.Type))}
	if s.ProfileType == runtimeapi.SecurityProfile_Localhost && profile.LocalhostProfile != nil {
		s.LocalhostRef = filepath.Join(a.config.DataDir, "seccomp", filepath.Clean("/"+*profile.LocalhostProfile))
	}
	return s
}

// checkNonRoot refuses a container that must not run as root and would.
func checkNonRoot(p *corev1.Pod, c *corev1.Container, s *corev1.SecurityContext, image *runtimeapi.Image) error {
	if s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: \"%s_%s(%s)\", container: %s)", p.Name, p.Namespace, p.UID, c.Name)
	switch {
	case s.RunAsUser != nil:
		if *s.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
	case image.GetUid() != nil:
		if image.GetUid().Value == 0 {
			return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
		}
	case image.GetUsername() != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.Username, where)
	}
	return nil
}
