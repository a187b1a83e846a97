// Copyright The Knarr Authors.
// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func defaultPod(p *corev1.Pod) {
	DefaultPodSpec(&p.Spec)
	if *p.Spec.TerminationGracePeriodSeconds < 0 { // of which templates only warn
		*p.Spec.TerminationGracePeriodSeconds = 1
	}
	setDefault(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if p.Spec.HostNetwork {
		defaultHostPorts(p.Spec.InitContainers)
		defaultHostPorts(p.Spec.Containers)
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			defaultRequests(&list[i].Resources)
		}
	}
	defaultPodRequests(&p.Spec)
	defaultPodStatus(p)
}

// defaultPodStatus does what does not touch the spec.
func defaultPodStatus(p *corev1.Pod) {
	p.Annotations = dropInitAnnotations(p.Annotations)
	samePodIPs(&p.Status)
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = QOS(&p.Spec)
	}
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// DefaultPodTemplate fills in the defaults of a template of pods.
func DefaultPodTemplate(t *corev1.PodTemplateSpec) {
	t.Annotations = dropInitAnnotations(t.Annotations)
	DefaultPodSpec(&t.Spec)
}

// DefaultPodSpec fills in the defaults that pods and pod templates share.
func DefaultPodSpec(s *corev1.PodSpec) {
	orDefault(&s.DNSPolicy, corev1.DNSClusterFirst)
	orDefault(&s.RestartPolicy, corev1.RestartPolicyAlways)
	orDefault(&s.SchedulerName, corev1.DefaultSchedulerName)
	setDefault(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	if s.SecurityContext == nil {
		s.SecurityContext = &corev1.PodSecurityContext{}
	}
	// The deprecated name of the account is kept the same as the current one.
	orDefault(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		defaultContainer(&c)
		s.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	s.SchedulingGroup = nil // its feature is off
}

// withoutGatedSources takes out what belongs to features that are off.
func withoutGatedSources(p *corev1.ProjectedVolumeSource) {
	for i := range p.Sources {
		p.Sources[i].ClusterTrustBundle, p.Sources[i].PodCertificate = nil, nil
	}
}

func defaultContainer(c *corev1.Container) {
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if tagOf(c.Image) == "latest" {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	orDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	orDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		orDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			orDefault(&from.FieldRef.APIVersion, "v1")
		} else if from != nil && from.FileKeyRef != nil {
			setDefault(&from.FileKeyRef.Optional, false)
		}
	}
	defaultProbe(c.LivenessProbe)
	defaultProbe(c.ReadinessProbe)
	defaultProbe(c.StartupProbe)
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil { // its feature is off
		c.Lifecycle.StopSignal = nil
		if *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	orDefault(&p.TimeoutSeconds, 1)
	orDefault(&p.PeriodSeconds, 10)
	orDefault(&p.SuccessThreshold, 1)
	orDefault(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		setDefault(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	if h == nil {
		return
	}
	orDefault(&h.Path, "/")
	orDefault(&h.Scheme, corev1.URISchemeHTTP)
}

// defaultRequests makes the limit the request of every resource that has no request.
func defaultRequests(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, set := r.Requests[name]; set {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = limit.DeepCopy()
	}
}

// defaultPodRequests gives a pod with resources of its own the limits and requests that it leaves out: huge pages as its containers
// have them, and for what is limited, what its containers ask for, else the limit.
func defaultPodRequests(s *corev1.PodSpec) {
	r := s.Resources
	if r == nil || len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	give := func(to *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
		if _, set := (*to)[name]; set {
			return
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = q.DeepCopy()
	}
	for name, q := range containerSums(s, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Limits }) {
		if _, asked := r.Requests[name]; isHugePages(name) && !asked {
			give(&r.Limits, name, q)
		}
	}
	if len(r.Limits) == 0 {
		return
	}
	for name, q := range containerSums(s, func(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }) {
		if forPods(name) && !isHugePages(name) {
			give(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		if forPods(name) {
			give(&r.Requests, name, q)
		}
	}
}

func defaultHostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			orDefault(&containers[i].Ports[j].HostPort, containers[i].Ports[j].ContainerPort)
		}
	}
}

func defaultVolume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.Secret != nil {
		setDefault(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	}
	if v.ConfigMap != nil {
		setDefault(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	}
	if v.DownwardAPI != nil {
		setDefault(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultFieldRefs(v.DownwardAPI.Items)
	}
	defaultHostPath(v.HostPath)
	defaultAzureDisk(v.AzureDisk)
	if v.ISCSI != nil {
		orDefault(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		orDefault(&v.RBD.RBDPool, "rbd")
		orDefault(&v.RBD.RadosUser, "admin")
		orDefault(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.ScaleIO != nil {
		orDefault(&v.ScaleIO.StorageMode, "ThinProvisioned")
		orDefault(&v.ScaleIO.FSType, "xfs")
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		setDefault(&v.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	if v.Image != nil {
		if v.Image.PullPolicy == "" {
			v.Image.PullPolicy = corev1.PullIfNotPresent
			if tagOf(v.Image.Reference) == "latest" {
				v.Image.PullPolicy = corev1.PullAlways
			}
		}
	}
	if v.Projected != nil {
		withoutGatedSources(v.Projected)
		setDefault(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			s := &v.Projected.Sources[i]
			if s.DownwardAPI != nil {
				defaultFieldRefs(s.DownwardAPI.Items)
			}
			if s.ServiceAccountToken != nil {
				setDefault(&s.ServiceAccountToken.ExpirationSeconds, int64(60*60))
			}
		}
	}
}

func defaultFieldRefs(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			orDefault(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}

// QOS is the quality of service class that the requests and limits of a pod amount to; see
// https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/.
func QOS(s *corev1.PodSpec) corev1.PodQOSClass {
	some, guaranteed := false, true
	count := func(r *corev1.ResourceRequirements) {
		for _, name := range [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if !request.IsZero() || !limit.IsZero() {
				some = true
			}
			if limit.IsZero() || request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	if s.Resources != nil {
		count(s.Resources)
	} else {
		for _, list := range [...][]corev1.Container{s.InitContainers, s.Containers} {
			for i := range list {
				count(&list[i].Resources)
			}
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func defaultHostPath(s *corev1.HostPathVolumeSource) {
	if s != nil {
		setDefault(&s.Type, corev1.HostPathUnset)
	}
}

func defaultAzureDisk(s *corev1.AzureDiskVolumeSource) {
	if s != nil {
		setDefault(&s.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setDefault(&s.Kind, corev1.AzureSharedBlobDisk)
		setDefault(&s.FSType, "ext4")
		setDefault(&s.ReadOnly, false)
	}
}
