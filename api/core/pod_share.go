// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/api/resource"
)

// Kinds of messages in a resource.Shared.
const (
	sharedEnv = iota
	sharedPorts
	sharedProbe
	sharedLifecycle
	sharedContainerSecurity
	sharedPodSecurity
	sharedTolerations
	sharedAffinity
	sharedSpread
)

// sharePod replaces what pods of one template have in common. The pod itself is nobody else's yet, but what its slices hold
// may be that of its last version, which others read: slices are copied before their elements change.
func sharePod(pod *corev1.Pod, s *resource.Shared) {
	s.String(&pod.Namespace)
	s.String(&pod.GenerateName)
	s.Map(&pod.Labels)
	pod.OwnerReferences = slices.Clone(pod.OwnerReferences)
	for i := range pod.OwnerReferences {
		o := &pod.OwnerReferences[i]
		for _, text := range []*string{&o.APIVersion, &o.Kind, &o.Name, (*string)(&o.UID)} {
			s.String(text)
		}
	}
	pod.ManagedFields = slices.Clone(pod.ManagedFields)
	for i := range pod.ManagedFields {
		m := &pod.ManagedFields[i]
		for _, text := range []*string{&m.Manager, (*string)(&m.Operation), &m.APIVersion, &m.FieldsType, &m.Subresource} {
			s.String(text)
		}
	}
	spec := &pod.Spec
	for _, text := range []*string{
		&spec.NodeName, &spec.ServiceAccountName, &spec.DeprecatedServiceAccount, &spec.SchedulerName, &spec.PriorityClassName,
		(*string)(&spec.RestartPolicy), (*string)(&spec.DNSPolicy), (*string)(&pod.Status.Phase), (*string)(&pod.Status.QOSClass),
		&pod.Status.HostIP,
	} {
		s.String(text)
	}
	s.Map(&spec.NodeSelector)
	resource.ShareSlice(s, sharedTolerations, &spec.Tolerations)
	resource.ShareSlice(s, sharedSpread, &spec.TopologySpreadConstraints)
	resource.SharePointer(s, sharedAffinity, &spec.Affinity)
	resource.SharePointer(s, sharedPodSecurity, &spec.SecurityContext)
	for _, all := range []*[]corev1.Container{&spec.InitContainers, &spec.Containers} {
		*all = slices.Clone(*all)
		for i := range *all {
			shareContainer(&(*all)[i], s)
		}
	}
}

func shareContainer(c *corev1.Container, s *resource.Shared) {
	for _, text := range []*string{
		&c.Name, &c.Image, (*string)(&c.ImagePullPolicy), &c.TerminationMessagePath, (*string)(&c.TerminationMessagePolicy), &c.WorkingDir,
	} {
		s.String(text)
	}
	s.Resources(&c.Resources.Limits)
	s.Resources(&c.Resources.Requests)
	resource.ShareSlice(s, sharedEnv, &c.Env)
	resource.ShareSlice(s, sharedPorts, &c.Ports)
	for _, p := range []**corev1.Probe{&c.LivenessProbe, &c.ReadinessProbe, &c.StartupProbe} {
		resource.SharePointer(s, sharedProbe, p)
	}
	resource.SharePointer(s, sharedLifecycle, &c.Lifecycle)
	resource.SharePointer(s, sharedContainerSecurity, &c.SecurityContext)
	c.VolumeMounts = slices.Clone(c.VolumeMounts)
	for i := range c.VolumeMounts {
		s.String(&c.VolumeMounts[i].MountPath)
	}
}
